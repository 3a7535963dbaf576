// Training: datasets, jobs with their losses as they fall, versions of the model.
import { datasets, jobs, versions, watch } from './api.js';
import { comparison } from './compare.js';
import { announce, card, confirm, count, duration, h, large, number, trying, when } from './dom.js';
import { lines } from './charts.js';
import { inputChoice, inputOf } from './pictures.js';

export const title = 'Training';

const GOING = ['queued', 'running'];
const LASTING = [...GOING, 'paused']; // more may come
const AGAIN_MS = 2000; // until a server that does not answer is asked again
const denied = (e) => [401, 403, 404].includes(e.status); // asking again would not help
const cell = (...content) => h('td', null, ...content);
const table = (heads, body) => h('div', { class: 'scroll' }, h('table', null, h('thead', null, h('tr', null, heads.map((t) =>
  h('th', { scope: 'col' }, t || h('span', { class: 'unseen' }, 'Actions'))))), body));
const small = (text, label, onclick) => h('button', { type: 'button', class: 'small', 'aria-label': label, onclick }, text);
const none = (columns, text) => h('tr', null, h('td', { colspan: columns, class: 'muted' }, text));
const field = (id, label, input) => h('div', { class: 'field' }, h('label', { for: id }, label), input);

// ---- Datasets ----

function datasetCard(server, changed) {
  const choice = inputChoice(server, 'sample-input');
  const body = h('tbody');
  const problem = h('p', { class: 'problem', role: 'alert' });
  const said = h('p', { class: 'muted', role: 'status' });
  const name = h('input', { id: 'ds-name', required: true, maxlength: 200, autocomplete: 'off' });
  const kind = h('select', { id: 'ds-kind' }, h('option', null, 'fatigue'), h('option', null, 'recognition'));
  const path = h('input', { id: 'ds-path', autocomplete: 'off', placeholder: 'below --dataset-root' });
  const looked = h('div');

  async function look(d) {
    const samples = await datasets.samples(d.id);
    looked.replaceChildren(h('h3', null, `${number(samples.length)} of ${d.name}`), h('ul', { class: 'strip samples', 'aria-label': `Pictures of ${d.name}` },
      samples.map((s) => {
        const src = URL.createObjectURL(new Blob([Uint8Array.from(atob(s.picture), (c) => c.charCodeAt(0))], { type: 'image/png' }));
        return h('li', null, h('img', { src, width: 84, height: 84, alt: `${s.label || 'no label'}${s.group && `, of ${s.group}`}`, onload: () => URL.revokeObjectURL(src) }),
          h('small', null, s.label || '–'));
      })));
    announce(`${count(samples.length, 'picture')} of ${d.name}`);
  }

  function row(d) {
    const archive = h('input', { type: 'file', class: 'unseen', id: `up-${d.id}`, accept: '.zip,.tar,.tgz,.gz,.xz,.zst', 'aria-label': `An archive for ${d.name}` });
    archive.addEventListener('change', trying(problem, async () => {
      const [file] = archive.files;
      said.textContent = `${file.name} is on its way…`;
      const after = await datasets.upload(d.id, file).finally(() => { said.textContent = ''; });
      said.textContent = `${d.name}: ${count(after.pictures, 'picture')}, ${number(after.problem_count)} left out`;
      await refresh();
    }));
    const sample = h('input', { type: 'file', class: 'unseen', id: `add-${d.id}`, accept: 'image/jpeg,image/png', multiple: true, 'aria-label': `Pictures for ${d.name}` });
    const label = h('input', { class: 'short', 'aria-label': `Label of pictures for ${d.name}`, placeholder: d.kind === 'fatigue' ? 'alert or drowsy' : 'name' });
    sample.addEventListener('change', trying(problem, async () => {
      for (const file of sample.files)
        await datasets.addSample(d.id, file, inputOf(server), label.value.trim());
      said.textContent = `${count(sample.files.length, 'picture')} added to ${d.name}`;
      await refresh();
    }));
    return h('tr', null, cell(d.name), cell(d.kind), cell(number(d.pictures)), cell(number(d.classes)), cell(number(d.groups)),
      h('td', { title: d.problems.join('\n') }, number(d.problem_count)),
      d.path ? cell(h('code', null, d.path)) : h('td', { class: 'row' }, h('label', { class: 'button small', for: `up-${d.id}` }, 'Archive'), archive,
        label, h('label', { class: 'button small', for: `add-${d.id}` }, 'Add'), sample),
      cell(small('Look', `Look at ${d.name}`, trying(problem, () => look(d))), ' ', small('Delete', `Delete ${d.name}`, trying(problem, async () => {
        if (!await confirm({ title: `Delete ${d.name}?`, text: 'What was uploaded is removed; models that were trained on it stay.', action: 'Delete', danger: true })) return;
        await datasets.remove(d.id);
        looked.replaceChildren();
        await refresh();
      }))));
  }

  async function refresh() {
    const list = await datasets.list();
    body.replaceChildren(...list.map(row));
    if (!list.length) body.append(none(8, 'No dataset yet. Upload a zip or tar with a folder for each class: alert and drowsy, or a person each.'));
    changed(list);
  }

  return {
    refresh,
    close: choice.close,
    node: card('Datasets', choice.node, problem, table(['Name', 'Kind', 'Pictures', 'Labels (classes)', 'Kept together (groups)', 'Left out', 'Add', ''], body), said, looked,
      h('form', { class: 'row', onsubmit: trying(problem, async () => {
        await datasets.create({ name: name.value.trim(), kind: kind.value, path: path.value.trim() });
        name.value = path.value = '';
        await refresh();
      }) }, h('label', { for: 'ds-name' }, 'New dataset'), name, h('label', { for: 'ds-kind', class: 'unseen' }, 'Kind'), kind,
      h('label', { for: 'ds-path', class: 'unseen' }, 'Path, if it is on the server'), path, h('button', { type: 'submit' }, 'Make'))),
  };
}

// ---- Starting a job ----

function jobForm(started) {
  const problem = h('p', { class: 'problem', role: 'alert' });
  const select = (id) => h('select', { id });
  const input = (id, value, more) => h('input', { id, type: 'number', value, ...more });
  const f = {
    name: h('input', { id: 'job-name', maxlength: 60, autocomplete: 'off' }),
    base: select('job-base'), fatigue: select('job-fatigue'), recognition: select('job-recognition'),
    steps: input('job-steps', 1000, { min: 1 }), batch: input('job-batch', 32, { min: 2, max: 1024 }),
    rate: input('job-rate', 0.002, { min: 0, step: 'any' }), heldOut: input('job-held', 0.2, { min: 0, max: 0.9, step: 'any' }),
    mode: h('select', { id: 'job-mode' }, h('option', { value: 'alternate' }, 'in turn (alternate)'), h('option', { value: 'accumulate' }, 'together (accumulate)')),
    frozen: h('input', { id: 'job-frozen', type: 'checkbox' }),
  };
  const options = (node, list, first) => {
    const before = node.value;
    node.replaceChildren(h('option', { value: '' }, first), ...list.map(([value, text]) => h('option', { value }, text)));
    node.value = list.some(([v]) => v === before) ? before : '';
  };
  return {
    datasets(list) {
      for (const kind of ['fatigue', 'recognition'])
        options(f[kind], list.filter((d) => d.kind === kind).map((d) => [d.id, `${d.name} (${number(d.pictures)})`]), 'none');
    },
    models: (list) => options(f.base, list.map((m) => [m.model.version, `${m.model.name} ${m.model.version.slice(0, 6)}`]), 'the active one'),
    node: card('Start a job', null, h('form', { class: 'stack', onsubmit: trying(problem, async () => {
      started(await jobs.create({ name: f.name.value.trim(), base_version: f.base.value, fatigue_dataset: f.fatigue.value,
        recognition_dataset: f.recognition.value, settings: { steps: +f.steps.value, batch: +f.batch.value, rate: +f.rate.value,
          held_out: +f.heldOut.value, mode: f.mode.value, frozen_root: f.frozen.checked } }));
    }) }, h('div', { class: 'fields' },
      field('job-name', 'Name of the model', f.name), field('job-base', 'Start from', f.base),
      field('job-fatigue', 'Fatigue dataset', f.fatigue), field('job-recognition', 'Recognition dataset', f.recognition),
      field('job-steps', 'Training steps', f.steps), field('job-batch', 'Pictures a step (batch)', f.batch),
      field('job-rate', 'Speed of learning (rate)', f.rate), field('job-held', 'Share kept for the test (held_out)', f.heldOut),
      field('job-mode', 'Two datasets (mode)', f.mode), field('job-frozen', 'Leave what both tasks share (frozen_root)', f.frozen)), problem,
    h('div', { class: 'row end' }, h('button', { type: 'submit', class: 'primary' }, 'Start')))),
  };
}

// ---- Jobs, and one that is watched ----

const figureRows = (list) => list.map((x) => h('tr', null, cell(x.task), cell(number(x.pictures)),
  ...x.error ? [h('td', { colspan: 6, class: 'problem' }, x.error)]
    : [x.auc, x.base_auc, x.active_auc, x.equal_error_rate, x.base_equal_error_rate, x.active_equal_error_rate].map((v) => cell(number(v, 4)))));

function watched(problem, changed) {
  const node = h('div', { class: 'stack' });
  const head = h('div', { class: 'row' });
  const reason = h('span', { class: 'muted' });
  const lost = h('p', { class: 'problem', role: 'alert' });
  const rest = h('div');
  let stop = null;
  let gone = false;
  let id = '';
  let shown = null; // the job as it was told last
  const curves = { fatigue: [], recognition: [] };
  const trained = (job) => Object.keys(curves).filter((task) => job[`${task}_dataset`]);

  /** The state and what can be done about it: only when that has changed, so that a
   * button stays under the finger and keeps the focus. */
  function drawHead(job) {
    const act = (text, f) => small(text, `${text} ${job.name}`, trying(problem, async () => { await f(job.id); changed(); }));
    const used = head.querySelector(':focus') ?? head.querySelector(':disabled'); // which lost the focus by being off
    const buttons = [job.state === 'running' && act('Pause', jobs.pause), job.state === 'paused' && act('Resume', jobs.resume),
      LASTING.includes(job.state) && act('Cancel', jobs.cancel)].filter(Boolean);
    head.replaceChildren(h('strong', null, job.name || job.id), h('span', { class: 'badge', id: 'job-state' }, job.state), reason,
      h('span', { class: 'grow' }), ...buttons);
    if (used && document.activeElement === document.body)
      (buttons.find((b) => b.textContent === used.textContent) ?? buttons[0])?.focus();
  }

  function draw(job) {
    const p = job.progress ?? {};
    const bar = h('progress', { max: p.steps || 1, value: p.step || 0, 'aria-label': 'Steps done' });
    reason.textContent = job.reason;
    rest.replaceChildren(h('div', { class: 'stack' },
      bar, (p.warnings ?? []).map((text) => h('p', { class: 'problem' }, text)),
      lines(Object.entries(curves).filter(([, points]) => points.length).map(([name, points]) => ({ name: `${name} error (loss)`, points })), { label: 'errors by step' }),
      h('dl', { class: 'facts' }, [['step', `${number(p.step)} of ${number(p.steps)}`], ['pictures a second', number(p.images_per_second, 1)],
        ['learning speed (rate)', String(+(p.rate ?? 0).toPrecision(3))], ['pull (gradient_norm)', number(p.gradient_norm, 1)],
        ['time left', GOING.includes(job.state) ? duration(p.seconds_left) : '–'], ['unreadable pictures', number(p.broken)]].map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v)))),
      job.figures.length > 0 && table(['Test', 'Pictures', 'Told apart (AUC)', 'before', 'in use', 'Mistakes (equal error rate)', 'before', 'in use'], h('tbody', null, figureRows(job.figures))),
      job.figures.length > 0 && h('p', { class: 'muted' }, 'On pictures that were kept from training. Told apart: 1 is always, 0.5 is guessing. Mistakes: the share of wrong answers, where both kinds are as frequent. '
        + 'Before: the model that this one started from; in use: the one that answered when it was tested.')));
  }

  function show(job) {
    const p = job.progress ?? {};
    const turned = job.state !== shown?.state;
    shown = job;
    for (const task of p.step ? trained(job) : [])
      if (curves[task].at(-1)?.[0] !== p.step) curves[task].push([p.step, p[`${task}_loss`]]);
    if (turned) drawHead(job);
    draw(job);
    if (turned && !GOING.includes(job.state)) {
      announce(`The job ${job.name} is ${job.state}`);
      changed();
    }
  }

  /** What the server kept of the losses goes before what this page has seen. */
  async function recall(of, signal) {
    const kept = await jobs.losses(of);
    if (signal.aborted || !kept.length) return;
    for (const task of trained(shown))
      curves[task] = [...kept.map((p) => [p.step, p[`${task}_loss`]]), ...curves[task].filter(([step]) => step > kept.at(-1).step)];
    draw(shown);
  }

  /** Watches while more may come, across restarts of the server and breaks of the network. */
  async function follow(of, signal) {
    while (!signal.aborted) {
      recall(of, signal).catch((e) => { if (e.status && !signal.aborted) problem.textContent = e.message; });
      try {
        await watch(of, (job) => {
          lost.textContent = '';
          show(job);
        }, signal);
        if (!LASTING.includes(shown.state)) return;
      } catch (e) {
        if (signal.aborted) return;
        lost.textContent = e.message;
        if (denied(e)) return;
      }
      await new Promise((r) => setTimeout(r, AGAIN_MS));
    }
  }

  return {
    node,
    open(job) {
      if (gone || (id === job.id && stop)) return;
      stop?.abort();
      id = job.id;
      shown = null;
      for (const task of Object.keys(curves)) curves[task] = [];
      lost.textContent = '';
      node.replaceChildren(head, lost, rest);
      stop = new AbortController();
      const mine = stop;
      show(job);
      follow(job.id, mine.signal).finally(() => { if (mine === stop) stop = null; });
    },
    forget(job) {
      if (id !== job.id) return;
      stop?.abort();
      id = '';
      node.replaceChildren();
    },
    close() {
      gone = true;
      stop?.abort();
    },
  };
}

function jobsCard(changed) {
  const body = h('tbody');
  const problem = h('p', { class: 'problem', role: 'alert' });
  const view = watched(problem, () => { renew(); changed(); });

  async function refresh() {
    const list = (await jobs.list()).reverse();
    body.replaceChildren(...list.map((j) => h('tr', null, cell(j.name || j.id.slice(0, 10)), cell(j.state),
      cell(`${number(j.progress?.step ?? 0)} / ${number(j.progress?.steps ?? j.settings?.steps ?? 0)}`), cell(when(j.created_at)),
      cell(small('Watch', `Watch ${j.name}`, () => view.open(j)), ' ', !LASTING.includes(j.state) &&
        small('Delete', `Delete ${j.name}`, trying(problem, async () => { await jobs.remove(j.id); view.forget(j); await refresh(); }))))));
    if (!list.length) body.append(none(5, 'No job yet.'));
    return list;
  }

  const renew = () => refresh().catch((e) => { problem.textContent = e.message; });

  return { refresh, open: view.open, close: view.close,
    started(job) {
      view.open(job);
      renew();
    },
    node: card('Jobs', null, problem, table(['Model', 'State', 'Steps', 'Made', ''], body), view.node) };
}

// ---- Versions ----

function versionsCard(server, changed, comparing) {
  const body = h('tbody');
  const problem = h('p', { class: 'problem', role: 'alert' });
  const compare = comparison();
  let timer = 0;
  let gone = false;
  let changing = false; // one is on its way to be the active one

  function row(m, active) {
    const { version, name } = m.model;
    const act = (f) => trying(problem, async () => { await f(); await refresh(); });
    return h('tr', { class: m.state }, cell(name), cell(h('code', null, version.slice(0, 8))), cell(h('span', { class: `badge ${m.state}` }, m.state)),
      cell(m.passed ? 'passed' : '–'), cell(`${large(m.parameters)} weights`), h('td', { class: 'muted wide' }, m.reason), h('td', null,
        m.state === 'candidate' && small('Activate', `Activate ${name} ${version}`, act(async () => {
          if (!m.passed && !await confirm({ title: `Activate ${name} all the same?`, text: m.reason || 'It did not pass its test on pictures that were kept from training.', action: 'Activate', danger: true })) return;
          await versions.activate(version, !m.passed);
          changing = true; // even if the list is not to be had at once
        })), m.state === 'candidate' && m.job_id && m.compared_with !== active && small('Compare', `Compare ${name} ${version} with the one in use`,
          trying(problem, async () => comparing(await jobs.compare(m.job_id)))), m.state === 'previous' && small('Roll back to it', `Roll back to ${name} ${version}`, act(versions.rollback)), ' ',
        m.state === 'candidate' && small('Delete', `Delete ${name} ${version}`, act(() => versions.remove(version)))));
  }

  function later(ms) {
    clearTimeout(timer);
    if (changing && !gone) timer = setTimeout(() => refresh().catch(() => {}), ms);
  }

  async function refresh() {
    const list = await versions.list().catch((e) => {
      if (!denied(e)) later(AGAIN_MS);
      throw e;
    });
    if (gone) return;
    const active = list.find((m) => m.state === 'active')?.model.version;
    body.replaceChildren(...list.map((m) => row(m, active)));
    compare.models(list);
    changed(list);
    if (active && active !== server.model?.model.version) server.dispatchEvent(new Event('refresh'));
    changing = list.some((m) => m.state === 'activating');
    later(700);
  }

  return { refresh, datasets: compare.datasets, close: () => { gone = true; clearTimeout(timer); },
    node: card('Versions of the model', null, problem, table(['Name', 'Version', 'State', 'Test', 'Size', '', ''], body), compare.node) };
}

export function open(root, server) {
  const problem = h('p', { class: 'problem', role: 'alert' });
  const form = jobForm((job) => list.started(job));
  const models = versionsCard(server, form.models, (job) => list.started(job));
  const data = datasetCard(server, (all) => {
    form.datasets(all);
    models.datasets(all);
  });
  const list = jobsCard(() => models.refresh().catch(() => {}));
  root.append(h('h1', { class: 'unseen' }, 'Training'), h('div', { class: 'system' }, problem, data.node, form.node, list.node, models.node));
  (async () => {
    try {
      await Promise.all([data.refresh(), models.refresh()]);
      const going = (await list.refresh()).find((j) => GOING.includes(j.state));
      if (going) list.open(going);
    } catch (e) {
      problem.textContent = e.status === 403 ? 'Training is for admins; your key is not one.' : e.message;
    }
  })();
  return () => {
    data.close();
    models.close();
    list.close();
  };
}
