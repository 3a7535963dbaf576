// The frame around the pages: routes, the key, the theme, what the server is.
import { health, key, models } from './api.js';
import { h, announce } from './dom.js';
import * as live from './live.js';
import * as drivers from './drivers.js';
import * as training from './training.js';
import * as system from './system.js';

const PAGES = { live, drivers, training, system };
const main = document.getElementById('main');
const notices = document.getElementById('notices');
const status = document.getElementById('status');

/** What the pages share. model is null until the server was heard of. */
const server = Object.assign(new EventTarget(), { model: null });

let leave = null; // of the page that is open
let page = '';

// ---- Pages ----

function links() {
  document.getElementById('pages').replaceChildren(...Object.entries(PAGES).map(([name, p]) =>
    h('a', { href: `#${name}`, 'aria-current': name === page && 'page' }, p.title)));
}

function route() {
  declined = false;
  const [name, ...rest] = location.hash.slice(1).split('/');
  const next = Object.hasOwn(PAGES, name) ? name : 'live';
  const focused = document.activeElement;
  // What had it goes, or is behind the reader.
  const moves = main.contains(focused) || (page !== next && focused !== document.body);
  leave?.();
  page = next;
  links();
  document.title = `${PAGES[next].title} · tscaf console`;
  main.replaceChildren();
  leave = PAGES[next].open(main, server, rest.join('/'));
  if (moves) main.focus();
}

document.querySelector('.skip').addEventListener('click', (e) => {
  e.preventDefault(); // #main is no page
  main.focus();
});

// ---- What the server is ----

function say(kind, id, ...content) {
  notices.querySelector(`[data-id="${id}"]`)?.remove();
  if (content.length) notices.append(h('p', { class: `notice ${kind}`, 'data-id': id }, ...content));
}

function describe() {
  const m = server.model;
  say('warn', 'untrained', ...(m && !m.model.trained ? [h('strong', null, 'Untrained model. '),
    'The network was initialised and never trained: what it says of fatigue and identity means nothing. Start tscafd with --model.'] : []));
  say('info', 'detector', ...(m && !m.detector ? [h('strong', null, 'No face detector. '),
    'This server runs without one, so it cannot find faces in frames: the console sends the middle of each picture as one aligned face.'] : []));
  status.className = `status ${m ? 'up' : 'gone'}`;
  status.replaceChildren(m ? `${m.model.name} · ${m.backend} ${m.precision}` : refused ? 'needs a key' : 'not connected');
}

let asking = null;
let refused = false; // for want of a key
async function connect() {
  clearTimeout(asking);
  try {
    server.model = (await models())[0] ?? null;
    say('bad', 'server');
  } catch (e) {
    server.model = null;
    refused = e.status === 401;
    if (e.status === 503) say('bad', 'server', `${e.message}: waiting.`);
    if (e.status !== 401) asking = setTimeout(connect, 2000);
  }
  describe();
  server.dispatchEvent(new Event('model'));
}

health.addEventListener('state', ({ detail }) => {
  if (detail === 'gone') {
    say('bad', 'server', h('strong', null, 'The server is gone. '),
      'Nobody answers at this address; the console tries again every two seconds.');
    status.className = 'status gone';
    status.textContent = 'not connected';
    if (server.model) {
      server.model = null;
      server.dispatchEvent(new Event('model'));
    }
    clearTimeout(asking);
    asking = setTimeout(connect, 2000);
  } else if (detail === 'unauthenticated') {
    if (!declined) askKey(key.get() ? 'The server does not know this key.' : '');
  }
});

// ---- The key ----

let dialog = null;
let declined = false; // not to be asked again by every answer of 401
function askKey(problem) {
  if (dialog) return;
  declined = true; // until a key is given, or the page is changed
  const input = h('input', { id: 'secret', type: 'password', autocomplete: 'off', spellcheck: 'false',
    value: '', 'aria-describedby': 'key-help key-problem', placeholder: 'tscaf_…' });
  const told = h('p', { id: 'key-problem', class: 'problem', role: 'alert' }, problem);
  const form = h('form', { class: 'stack', onsubmit: (e) => {
    e.preventDefault();
    const secret = input.value.trim();
    const odd = /[^\x21-\x7e]/u.exec(secret)?.[0]; // no header can have some of these
    if (odd) {
      told.textContent = odd.trim() ? `No key has “${odd}” in it.` : 'No key has a space in it.';
      return;
    }
    key.set(secret);
    declined = false;
    dialog.close();
    connect().then(route);
  } },
  h('label', { for: 'secret' }, 'API key'), input,
  told,
  h('p', { id: 'key-help', class: 'muted' }, 'Kept in this tab only, and sent to this server only. The first one is made by ',
    h('code', null, 'tscafd --create-key admin:NAME'), '; until there is one, a server on this machine asks for none.'),
  h('div', { class: 'row end' },
    key.get() && h('button', { type: 'button', onclick: () => {
      key.set('');
      dialog.close();
      connect().then(route);
    } }, 'Forget it'),
    h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'),
    h('button', { class: 'primary', type: 'submit' }, 'Use this key')));
  dialog = h('dialog', { 'aria-labelledby': 'key-title' }, h('h2', { id: 'key-title' }, 'Your key'), form);
  dialog.addEventListener('close', () => {
    dialog.remove();
    dialog = null;
  });
  document.body.append(dialog);
  dialog.showModal();
}
document.getElementById('key').addEventListener('click', () => askKey(''));

// ---- The theme ----

const THEMES = ['system', 'light', 'dark'];
const themeButton = document.getElementById('theme');
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem('tscaf-theme', name);
  themeButton.textContent = { system: '◐', light: '○', dark: '●' }[name];
  themeButton.setAttribute('aria-label', `Colours: ${name}`);
  themeButton.title = `Colours: ${name}`;
}
themeButton.addEventListener('click', () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  setTheme(next);
  announce(`Colours: ${next}`);
});
setTheme(THEMES.includes(localStorage.getItem('tscaf-theme')) ? localStorage.getItem('tscaf-theme') : 'system');

server.addEventListener('refresh', connect); // another version answers
window.addEventListener('hashchange', route);
await connect();
route();
