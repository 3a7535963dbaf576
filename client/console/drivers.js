// Drivers: who is enrolled; enrolling by camera or files, searching, deleting.
import { faces, identities } from './api.js';
import { announce, card, confirm, count, h, number, once, trying, when } from './dom.js';
import { quality } from './live.js';
import { drawGuide, grab, inputChoice, inputOf, load, openCamera } from './pictures.js';

export const title = 'Drivers';

/** Why a picture was refused, in words, and what the reader may do. */
function refusal(e) {
  const reasons = e.details?.map((d) => d.reason).filter(Boolean) ?? [];
  const other = e.details?.find((d) => d.identity_id);
  if (other)
    return { text: `This face is enrolled already, as another driver (similarity ${number(other.similarity, 2)}).`,
      link: other.identity_id, force: true };
  if (reasons.includes('NO_FACE')) return { text: 'There is no face in it.' };
  if (reasons.includes('SEVERAL_FACES')) return { text: 'There are several faces in it: enrol from a picture with one.' };
  if (e.status === 422) return { text: `The face is poor: ${quality(reasons)}.`, force: true };
  return { text: e.message };
}

/** A list of what became of each picture. */
function outcomes() {
  const list = h('ul', { class: 'outcomes', 'aria-label': 'What became of the pictures', 'aria-live': 'polite' });
  return {
    node: list,
    clear: () => list.replaceChildren(),
    add(name) {
      const text = h('span', null, 'sending…');
      const item = h('li', null, h('strong', null, name), text);
      list.prepend(item);
      return {
        good() {
          item.className = 'good';
          text.replaceChildren('enrolled');
        },
        bad(e, again) {
          const r = refusal(e);
          item.className = 'bad';
          text.replaceChildren(r.text, ' ');
          if (r.link) text.append(h('a', { href: `#drivers/${r.link}` }, 'See who'), ' ');
          if (r.force && again)
            text.append(h('button', { type: 'button', class: 'small', onclick: once(again) }, 'Enrol all the same'));
        },
      };
    },
  };
}

/** A small camera with a button that takes a picture. */
function snapper(server, onPicture) {
  const video = h('video', { playsinline: true, 'aria-label': 'What the camera sees' });
  const guide = h('canvas', { class: 'guide', 'aria-hidden': 'true' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const frame = h('div', { class: 'snap', hidden: true }, video, guide);
  const take = h('button', { type: 'button', class: 'primary', hidden: true }, 'Take a picture');
  const toggle = h('button', { type: 'button' }, 'Use the camera');
  let camera = null; // stops it, also where it is still asked for
  video.muted = true;

  function showGuide() {
    guide.width = video.videoWidth;
    guide.height = video.videoHeight;
    drawGuide(guide.getContext('2d'), 0, 0, guide.width, guide.height);
  }

  function close() {
    camera?.abort();
    camera = null;
    frame.hidden = take.hidden = true;
    toggle.textContent = 'Use the camera';
  }

  toggle.addEventListener('click', async () => {
    problem.textContent = '';
    if (camera) {
      close();
      return;
    }
    camera = new AbortController();
    toggle.textContent = 'Camera off';
    const { signal } = camera;
    try {
      await openCamera(video, signal);
    } catch (e) {
      if (!signal.aborted) {
        close();
        problem.textContent = e.message;
      }
      return;
    }
    if (signal.aborted) return;
    frame.hidden = take.hidden = false;
    guide.hidden = inputOf(server) !== 'crop';
    if (!guide.hidden) showGuide();
  });
  take.addEventListener('click', trying(problem, async () => {
    const shot = await grab(video, inputOf(server));
    onPicture(shot.blob, `camera, ${new Date().toLocaleTimeString()}`);
  }));
  return { node: h('div', { class: 'stack' }, frame, h('div', { class: 'row' }, take, toggle), problem), close };
}

// ---- One driver ----

function faceTile(id, face, problem, onGone) {
  const picture = h('span', { class: 'face-picture' });
  const note = face.quality_reasons.length ? quality(face.quality_reasons) : when(face.created_at);
  if (face.has_crop)
    faces.crop(id, face.id).then((blob) => {
      const url = URL.createObjectURL(blob);
      picture.append(h('img', { src: url, alt: 'An enrolled face', width: 112, height: 112,
        onload: () => URL.revokeObjectURL(url) }));
    }, () => picture.append('not readable'));
  else picture.append('no crop kept');
  return h('li', { class: 'face' }, picture, h('small', null, note),
    h('button', { type: 'button', class: 'small', 'aria-label': `Delete the face of ${note}`, onclick: trying(problem, async () => {
      if (!await confirm({ title: 'Delete this face?', text: 'Its crop and its embedding are removed.', action: 'Delete', danger: true })) return;
      await faces.remove(id, face.id);
      await onGone();
    }) }, 'Delete'));
}

async function driverPage(root, server, id, { changed }) {
  const driver = await identities.get(id);
  const tiles = h('ul', { class: 'faces' });
  const results = outcomes();
  const problem = h('p', { class: 'problem', role: 'alert' });

  async function refresh() {
    try {
      const list = await faces.list(id);
      tiles.replaceChildren(...list.map((f) => faceTile(id, f, problem, refresh)));
      if (!list.length) tiles.append(h('li', { class: 'muted' }, 'No face yet: this driver cannot be recognised.'));
    } catch (e) {
      problem.textContent = `The faces are not read: ${e.message}`;
    }
    changed();
  }

  async function enroll(blob, name, force) {
    const outcome = results.add(name);
    try {
      await faces.enroll(id, blob, { input: inputOf(server), force });
    } catch (e) {
      outcome.bad(e, force ? null : () => enroll(blob, name, true));
      announce(`${name}: not enrolled`);
      return;
    }
    outcome.good();
    announce(`${name}: enrolled`);
    await refresh();
  }

  async function takeFiles(list) {
    for (const f of list) {
      try {
        await enroll((await load(f, inputOf(server))).blob, f.name);
      } catch (e) {
        results.add(f.name).bad(e);
      }
    }
  }

  const choice = inputChoice(server, 'enroll-input');
  const snap = snapper(server, enroll);
  const file = h('input', { type: 'file', id: 'enroll-files', class: 'unseen', multiple: true, accept: 'image/*', onchange: () => {
    takeFiles([...file.files]);
    file.value = '';
  } });
  const drop = h('div', { class: 'drop', ondragover: (e) => e.preventDefault(), ondrop: (e) => {
    e.preventDefault();
    takeFiles([...e.dataTransfer.files]);
  } }, h('label', { class: 'button', for: 'enroll-files' }, 'Choose pictures'), file,
  h('span', { class: 'muted' }, 'or drop them here, one face in each'));

  const facts = h('dl', { class: 'facts' }, [
    ['id', h('code', null, driver.id)],
    driver.external_id && ['external id', driver.external_id],
    driver.consent_ref && ['consent', driver.consent_ref],
    ...Object.entries(driver.metadata),
    ['enrolled', when(driver.created_at)],
  ].filter(Boolean).map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v))));

  root.replaceChildren(
    card(driver.name, h('button', { type: 'button', class: 'danger', onclick: trying(problem, async () => {
      if (!await confirm({ title: `Delete ${driver.name}?`, action: 'Delete', danger: true,
        text: 'The driver, all faces, crops and embeddings are removed; the audit log keeps that it happened.' })) return;
      await identities.remove(id);
      changed();
      location.hash = '#drivers';
      announce(`${driver.name} is deleted`);
    }) }, 'Delete driver'), facts, problem),
    card('Faces', null, tiles),
    card('Enrol', choice.node, drop, snap.node, results.node));
  await refresh();
  return () => {
    snap.close();
    choice.close();
  };
}

// ---- The list ----

function newDriver(onMade) {
  const name = h('input', { id: 'new-name', required: true, maxlength: 200, autocomplete: 'off' });
  const external = h('input', { id: 'new-external', maxlength: 200, autocomplete: 'off' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  return h('details', { class: 'new' }, h('summary', null, 'New driver'),
    h('form', { class: 'stack', onsubmit: trying(problem, async () => {
      const made = await identities.create({ name: name.value.trim(), external_id: external.value.trim() });
      name.value = external.value = '';
      onMade(made);
    }) },
    h('label', { for: 'new-name' }, 'Name'), name,
    h('label', { for: 'new-external' }, 'Your own id (optional)'), external, problem,
    h('button', { class: 'primary', type: 'submit' }, 'Create')));
}

let sought = ''; // kept while one driver after the other is opened

export function open(root, server, id) {
  const search = h('input', { type: 'search', id: 'search', placeholder: 'Name or external id', autocomplete: 'off', value: sought });
  const list = h('ul', { class: 'people' });
  const more = h('button', { type: 'button', hidden: true }, 'More');
  const problem = h('p', { class: 'problem', role: 'alert' });
  const detail = h('div', { class: 'stack detail' });
  let cursor = '';
  let asked = 0;
  let gone = false;
  let closeDetail = null;

  const row = (d) => h('li', null, h('a', { href: `#drivers/${d.id}`, 'aria-current': d.id === id && 'true' },
    h('span', { class: 'avatar', 'aria-hidden': 'true' }, d.name.trim().slice(0, 1).toUpperCase()),
    h('span', { class: 'person' }, d.name, h('small', null, d.external_id || d.id.slice(0, 11))),
    h('span', { class: `badge ${d.face_count ? '' : 'empty'}` }, count(d.face_count, 'face'))));

  async function page(from) {
    const mine = ++asked;
    try {
      const got = await identities.list(search.value.trim(), from);
      if (mine !== asked || gone) return;
      if (!from) list.replaceChildren();
      list.append(...got.identities.map(row));
      if (!list.children.length)
        list.append(h('li', { class: 'muted' }, search.value ? 'Nobody fits.' : 'Nobody is enrolled yet.'));
      cursor = got.next_cursor;
      more.hidden = !cursor;
      problem.textContent = '';
    } catch (e) {
      if (mine === asked) problem.textContent = e.message;
    }
  }

  let typing = 0;
  search.addEventListener('input', () => {
    sought = search.value;
    clearTimeout(typing);
    typing = setTimeout(() => page(''), 200);
  });
  more.addEventListener('click', () => page(cursor));
  page('');

  if (id) {
    driverPage(detail, server, id, { changed: () => page('') }).then((close) => {
      if (gone) close();
      closeDetail = close;
    }, (e) => detail.replaceChildren(h('p', { class: 'problem', role: 'alert' }, e.message)));
  } else {
    detail.append(h('div', { class: 'card empty-card' }, h('p', { class: 'stage-title' }, 'Choose a driver'),
      h('p', { class: 'muted' }, 'or make a new one, then enrol a few faces: from different days, with and without glasses.')));
  }
  root.append(h('h1', { class: 'unseen' }, 'Drivers'), h('div', { class: `drivers ${id ? 'has-detail' : ''}` },
    h('section', { class: 'card', 'aria-label': 'All drivers' },
      h('label', { class: 'unseen', for: 'search' }, 'Search'), search,
      newDriver((made) => {
        sought = ''; // whom it may not fit
        location.hash = `#drivers/${made.id}`;
      }), problem, list, more),
    h('div', { class: 'detail-column' }, id && h('a', { class: 'back', href: '#drivers' }, '← All drivers'), detail)));
  return () => {
    gone = true;
    clearTimeout(typing);
    closeDetail?.();
  };
}
