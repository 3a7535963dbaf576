// Elements without markup in strings: the page's policy allows none.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled' || name === 'multiple')
      node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** h('button', {class: 'x', onclick: f}, 'text', node...) */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** The same for SVG. */
export const s = (tag, props, ...children) =>
  fill(document.createElementNS(SVG, tag), props, children);

/** Says a sentence to screen readers, once. */
export function announce(text) {
  const at = document.getElementById('announcer');
  if (at.textContent !== text) at.textContent = text;
}

const numbers = {};
/** 12345.678 -> "12,346"; digits after the point as asked. */
export function number(x, digits = 0) {
  numbers[digits] ??= new Intl.NumberFormat('en', {
    minimumFractionDigits: digits, maximumFractionDigits: digits });
  return Number.isFinite(x) ? numbers[digits].format(x) : '–';
}

/** Seconds as people say them: "840 µs", "12.3 ms", "1.25 s". */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 0.001) return `${number(seconds * 1e6)} µs`;
  if (seconds < 1) return `${number(seconds * 1e3, seconds < 0.1 ? 1 : 0)} ms`;
  return `${number(seconds, 2)} s`;
}

/** 12345678 -> "12.3 M". */
export function large(x) {
  for (const [unit, word] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']])
    if (x >= unit) return `${number(x / unit, 1)} ${word}`;
  return number(x);
}

/** "3 Nov 2026, 14:05" in the reader's zone. */
export function when(rfc3339) {
  const t = new Date(rfc3339);
  return Number.isNaN(t.getTime()) ? rfc3339 :
    t.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
}

/** "1 face", "2 faces". */
export const count = (n, word) => `${number(n)} ${word}${n === 1 ? '' : 's'}`;

/** Runs an action once at a time: the button or input that starts it is off meanwhile. */
export const once = (action) => async (e) => {
  e.preventDefault();
  const by = e.submitter ?? e.currentTarget;
  const focused = document.activeElement === by;
  by.disabled = true;
  try {
    await action(e);
  } finally {
    by.disabled = false;
    if (focused && document.activeElement === document.body) by.focus({ preventScroll: true }); // being off took it away
  }
};

/** The same; what goes wrong is said at problem. */
export const trying = (problem, action) => once(async (e) => {
  problem.textContent = '';
  try {
    await action(e);
  } catch (err) {
    problem.textContent = err.message;
  }
});

/** A card with a heading; extra goes to the heading's right. */
export function card(title, extra, ...children) {
  const id = `c${Math.random().toString(36).slice(2)}`;
  return h('section', { class: 'card', 'aria-labelledby': id },
    h('div', { class: 'card-head' }, h('h2', { id }, title), extra), ...children);
}

/** Asks in a dialog; resolves to true or false. */
export function confirm({ title, text, action, danger }) {
  return new Promise((resolve) => {
    const dialog = h('dialog', { 'aria-labelledby': 'confirm-title' },
      h('h2', { id: 'confirm-title' }, title), h('p', null, text),
      h('div', { class: 'row end' },
        h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'),
        h('button', { type: 'button', class: danger ? 'danger' : 'primary',
          onclick: () => dialog.close('yes') }, action)));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes');
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
