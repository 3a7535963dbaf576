// System: what the server is doing, by its own figures; models, keys, audit.
import { audit, keys, metrics, models, readiness } from './api.js';
import { bars, curve } from './charts.js';
import { card, confirm, duration, h, large, number, trying, when } from './dom.js';
import { buckets, parse, quantile, total } from './metrics.js';

export const title = 'System';

const POLL_MS = 1500;
const STAGES = [['queue', 'Waiting for the network'], ['decode', 'Decoding'], ['detect', 'Finding faces'],
  ['compute', 'The network, a batch'], ['match', 'The gallery, a batch']];
const ANALYZE = 'POST /v1/analyze';

const seconds = (le) => (le === Infinity ? 'more' : duration(le).replace(/\.0+ |(?<=\.\d)0 /, ' '));

function tile(label) {
  const figure = h('dd', null, '–');
  return { node: h('div', { class: 'tile' }, h('dt', null, label), figure),
    set: (text) => { figure.textContent = text; } };
}

function histogram(heading, list, unit = seconds) {
  const n = list.reduce((sum, b) => sum + b.n, 0);
  const used = list.filter((b) => b.n);
  const from = list.indexOf(used[0]);
  const to = list.indexOf(used[used.length - 1]);
  const shown = used.length ? list.slice(Math.max(0, from - 1), to + 2) : [];
  const says = unit === seconds && n
    ? `median ${duration(quantile(list, 0.5))} · p95 ${duration(quantile(list, 0.95))} · of ${number(n)}` : n ? `of ${number(n)}` : '';
  return h('div', { class: 'histogram' }, h('div', { class: 'card-head' }, h('h3', null, heading), h('span', { class: 'muted' }, says)),
    bars(shown.map((b) => ({ label: unit(b.le), value: b.n })), { label: heading }));
}

// ---- Figures ----

function figures() {
  const tiles = Object.fromEntries([['ready', 'State'], ['gallery', 'Faces enrolled'], ['calls', 'Calls at work'],
    ['queue', 'Faces waiting'], ['rate', 'Faces a second'], ['batch', 'Faces a batch'], ['connections', 'Connections'],
    ['refused', 'Refused, in all']].map(([k, text]) => [k, tile(text)]));
  const throughput = curve({ seconds: 120, label: 'faces a second' });
  const waiting = curve({ seconds: 120, label: 'faces waiting' });
  const latency = h('div', { class: 'histograms' });
  const refusals = h('div');
  const problem = h('p', { class: 'problem', role: 'alert' });
  let before = null;

  function show(samples, state) {
    const now = performance.now();
    const facesRun = total(samples, 'tscaf_batch_faces_sum');
    const batches = total(samples, 'tscaf_batch_faces_count');
    const rate = before ? Math.max(0, (1000 * (facesRun - before.facesRun)) / (now - before.now)) : NaN;
    const perBatch = before && batches > before.batches
      ? (facesRun - before.facesRun) / (batches - before.batches) : batches ? facesRun / batches : NaN;
    before = { now, facesRun, batches };
    tiles.ready.set(state);
    tiles.ready.node.dataset.state = state === 'ready' ? 'good' : 'bad';
    tiles.gallery.set(number(total(samples, 'tscaf_gallery_faces')));
    tiles.calls.set(number(total(samples, 'tscaf_calls_in_flight')));
    tiles.queue.set(number(total(samples, 'tscaf_queue_faces')));
    tiles.rate.set(number(rate, rate < 10 ? 1 : 0));
    tiles.batch.set(number(perBatch, 1));
    tiles.connections.set(number(total(samples, 'tscaf_connections')));
    tiles.refused.set(number(total(samples, 'tscaf_rejections_total')));
    if (Number.isFinite(rate)) throughput.add(rate);
    waiting.add(total(samples, 'tscaf_queue_faces'));
    latency.replaceChildren(
      histogram('A call of analyze, in all', buckets(samples, 'tscaf_request_seconds', { route: ANALYZE })),
      ...STAGES.map(([stage, text]) => histogram(text, buckets(samples, `tscaf_${stage}_seconds`))),
      histogram('Faces in a batch', buckets(samples, 'tscaf_batch_faces'), (le) => (le === Infinity ? 'more' : `${le}`)));
    const no = samples.filter((x) => x.name === 'tscaf_rejections_total' && x.value);
    refusals.replaceChildren(no.length
      ? h('dl', { class: 'facts' }, no.map((x) => h('div', null, h('dt', null, x.labels.reason.replaceAll('_', ' ')), h('dd', null, number(x.value)))))
      : h('p', { class: 'muted' }, 'None so far.'));
  }

  return {
    nodes: [problem, h('dl', { class: 'tiles' }, Object.values(tiles).map((t) => t.node)),
      h('div', { class: 'two' }, card('Throughput', null, throughput.node), card('Queue', null, waiting.node)),
      card('Latency', h('span', { class: 'muted' }, 'since the server started'), latency),
      card('Requests that were not served', null, refusals)],
    async poll() {
      try {
        const [text, state] = await Promise.all([metrics(), readiness()]);
        show(parse(text), state);
        problem.textContent = '';
      } catch (e) {
        problem.textContent = e.message;
        tiles.ready.set('unknown');
        tiles.ready.node.dataset.state = 'bad';
      }
    },
  };
}

// ---- Models ----

function modelCard() {
  const body = h('div');
  // Only the one that answers: the others are on the Training page.
  models().then((list) => body.replaceChildren(...list.filter((m) => m.state === 'active').map((m) => h('dl', { class: 'facts' }, [
    ['name', m.model.name], ['version', h('code', null, m.model.version)],
    ['trained', m.model.trained ? 'yes' : 'no: its numbers mean nothing'],
    ['backend', `${m.backend}, ${m.precision}`],
    ['weights', large(m.parameters)], ['multiply-adds a face', large(m.multiply_adds)],
    ['drowsy from', number(m.fatigue_threshold, 2)], ['the same person from', number(m.identity_threshold, 2)],
    ['finds faces in frames', m.detector ? 'yes' : 'no'],
  ].map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v)))))),
  (e) => body.replaceChildren(h('p', { class: 'problem' }, e.message)));
  return card('Model', null, body);
}

// ---- Keys and the audit log: for admins ----

function keyCard() {
  const body = h('tbody');
  const secret = h('div', { role: 'status' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const name = h('input', { id: 'key-name', required: true, maxlength: 200, autocomplete: 'off' });
  const role = h('select', { id: 'key-role' }, ['analyze', 'enroll', 'admin'].map((r) => h('option', null, r)));

  async function refresh() {
    try {
      const list = await keys.list();
      body.replaceChildren(...list.map((k) => h('tr', null, h('td', null, k.name), h('td', null, k.role), h('td', null, when(k.created_at)),
        h('td', null, h('button', { type: 'button', class: 'small', 'aria-label': `Revoke ${k.name}`, onclick: trying(problem, async () => {
          if (!await confirm({ title: `Revoke ${k.name}?`, text: 'Whoever uses it is refused from now on.', action: 'Revoke', danger: true })) return;
          try {
            await keys.remove(k.id);
          } finally {
            await refresh(); // it may be gone by another's hand
          }
        }) }, 'Revoke')))));
      if (!list.length) role.value = 'admin'; // another first key would shut its maker out
      if (!list.length) body.append(h('tr', null, h('td', { colspan: 4, class: 'muted' }, 'No key yet: on this machine the server is open. With the first key it is closed; make that an admin.')));
    } catch (e) {
      problem.textContent = e.status === 403 ? 'Keys are for admins; your key is not one.' : e.message;
    }
  }
  refresh();
  return card('Keys', null, problem,
    h('div', { class: 'scroll' }, h('table', null, h('thead', null, h('tr', null, ['Name', 'Role', 'Made', ''].map((t) => h('th', { scope: 'col' }, t || h('span', { class: 'unseen' }, 'Revoke'))))), body)),
    h('form', { class: 'row', onsubmit: trying(problem, async () => {
      const made = await keys.create(name.value.trim(), role.value);
      name.value = '';
      secret.replaceChildren(h('p', { class: 'notice info' }, 'The secret, shown only now: ', h('code', { id: 'secret-shown' }, made.secret)));
      await refresh();
    }) }, h('label', { for: 'key-name' }, 'New key for'), name, h('label', { class: 'unseen', for: 'key-role' }, 'Role'), role,
    h('button', { type: 'submit' }, 'Make')), secret);
}

function auditCard() {
  const body = h('tbody');
  const problem = h('p', { class: 'problem' });
  audit().then((list) => {
    body.replaceChildren(...list.map((r) => h('tr', null, h('td', null, when(r.at)), h('td', null, r.action),
      h('td', null, h('code', null, r.subject)), h('td', null, r.actor))));
    if (!list.length) body.append(h('tr', null, h('td', { colspan: 4, class: 'muted' }, 'Nothing yet.')));
  }, (e) => {
    problem.textContent = e.status === 403 ? 'The audit log is for admins; your key is not one.' : e.message;
  });
  return card('Audit log', h('span', { class: 'muted' }, 'the last 20'), problem,
    h('div', { class: 'scroll' }, h('table', null, h('thead', null, h('tr', null, ['When', 'What', 'On', 'By'].map((t) => h('th', { scope: 'col' }, t)))), body)));
}

export function open(root) {
  const f = figures();
  let timer = 0;
  let gone = false;
  const again = async () => {
    await f.poll();
    if (!gone) timer = setTimeout(again, POLL_MS);
  };
  again();
  root.append(h('h1', { class: 'unseen' }, 'System'), h('div', { class: 'system' }, ...f.nodes,
    h('div', { class: 'two' }, modelCard(), keyCard()), auditCard()));
  return () => {
    gone = true;
    clearTimeout(timer);
  };
}
