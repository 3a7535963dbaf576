// Two versions of the model side by side: what they are, how they were trained,
// and what they got on pictures that were held out.
import { h, large, number } from './dom.js';

const TASKS = ['fatigue', 'recognition'];
const short = (m) => `${m.model.name} ${m.model.version.slice(0, 8)}`;
const story = (m) => (m.card ? JSON.parse(m.card) : {}); // one that came with --model has none

/** A task's figures of m: where other was trained from m, those on other's
 * held-out pictures, since both were tried on them; else its own. */
function figures(m, other, task) {
  const [own, next] = [story(m), story(other)];
  const f = next.held_out?.[task];
  if (next.base_version === m.model.version && f)
    return { dataset: next.data[task], pictures: f.pictures, error: f.error, auc: f.base_auc, rate: f.base_equal_error_rate };
  const o = own.held_out?.[task];
  return o ? { dataset: own.data[task], pictures: o.pictures, error: o.error, auc: o.auc, rate: o.equal_error_rate } : {};
}

/** The two that are chosen, side by side. */
export function comparison() {
  const choice = (id) => h('select', { id, onchange: () => draw() });
  const sides = [choice('compare-one'), choice('compare-other')];
  const body = h('tbody');
  const note = h('p', { class: 'muted', role: 'status' });
  const node = h('div', { class: 'stack', hidden: true }, h('h3', null, 'Side by side'), h('div', { class: 'scroll' },
    h('table', { class: 'compare', 'aria-label': 'Two versions side by side' }, h('thead', null, h('tr', null, h('td', null, h('span', { class: 'unseen' }, 'Property')),
      ['One version', 'Other version'].map((text, i) => h('th', { scope: 'col' }, h('label', { class: 'unseen', for: sides[i].id }, text), sides[i])))), body)), note);
  let list = [];
  let names = {};

  function draw() {
    const two = sides.map((s) => list.find((m) => m.model.version === s.value));
    if (!two.every(Boolean)) return;
    const stories = two.map(story);
    const row = (name, values) => h('tr', null, h('th', { scope: 'row' }, name), values.map((v) => h('td', null, v)));
    const setting = (name, key) => row(name, stories.map((s) => (s.settings ? `${s.settings[key] || 'default'}` : '–')));
    const results = TASKS.map((task) => two.map((m, i) => figures(m, two[1 - i], task)));
    body.replaceChildren(
      row('State', two.map((m) => m.state)),
      row('Trained from', stories.map((s) => {
        const base = list.find((m) => m.model.version === s.base_version);
        return base ? short(base) : s.base_version?.slice(0, 8) ?? '–';
      })),
      setting('Training steps', 'steps'), setting('Pictures a step (batch)', 'batch'), setting('Speed of learning (rate)', 'rate'), setting('Two datasets (mode)', 'mode'),
      row('Size (weights)', two.map((m) => large(m.parameters))), row('Work a face (multiply-adds)', two.map((m) => large(m.multiply_adds))),
      row('Drowsy from', two.map((m) => number(m.fatigue_threshold, 3))), row('Match from', two.map((m) => number(m.identity_threshold, 3))),
      ...TASKS.flatMap((task, i) => [
        row(`Tested on, ${task}`, results[i].map((f) => f.error || (f.pictures ? `${number(f.pictures)} of ${names[f.dataset] ?? f.dataset}` : '–'))),
        row(`Told apart (AUC), ${task}`, results[i].map((f) => number(f.auc, 4))),
        row(`Mistakes (equal error rate), ${task}`, results[i].map((f) => number(f.rate, 4)))]));
    const apart = TASKS.filter((_, i) => results[i].every((f) => f.pictures) && results[i][0].dataset !== results[i][1].dataset);
    note.textContent = apart.length ? `Figures of ${apart.join(' and ')} are of different datasets: they say little about which is better.` : '';
  }

  return {
    node,
    datasets(sets) {
      names = Object.fromEntries(sets.map((d) => [d.id, d.name]));
      draw();
    },
    models(all) {
      const before = sides.map((s) => s.value);
      list = all;
      const first = [list.find((m) => m.state === 'active'), list.findLast((m) => m.state !== 'active')];
      sides.forEach((side, i) => {
        side.replaceChildren(...list.map((m) => h('option', { value: m.model.version }, short(m))));
        side.value = list.some((m) => m.model.version === before[i]) ? before[i] : first[i]?.model.version ?? '';
      });
      node.hidden = list.length < 2;
      draw();
    },
  };
}
