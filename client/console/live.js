// Live: a camera, clips and pictures through the network, as fast as it goes.
import { analyze, explain } from './api.js';
import { announce, card, count, duration, h, number } from './dom.js';
import { curve, gauge } from './charts.js';
import { alignment, drawGuide, grab, inputChoice, inputOf, isClip, load, openCamera, openClip } from './pictures.js';

export const title = 'Live';

const RATES = [[0, 'as fast as it goes'], [10, '10 a second'], [5, '5 a second'], [2, '2 a second'], [1, '1 a second']];
const STAGES = ['decode', 'detect', 'queue', 'compute', 'match'];
const WORDS = { match: 'recognised', unknown: 'not enrolled', ambiguous: 'two are alike' };
const QUALITY = {
  SMALL_BOUNDING_BOX: 'small', LOW_SHARPNESS: 'blurred', LOW_BRIGHTNESS: 'dark',
  EXTREME_POSE: 'turned away', LOW_CONFIDENCE: 'unsure',
};
/** The server's quality reasons in words. */
export const quality = (reasons) => reasons.map((r) => QUALITY[r] ?? r).join(', ');

const nameOf = (identity) => identity?.verdict === 'match' ? identity.matches[0].name :
  identity?.verdict === 'ambiguous' ? `${identity.matches[0].name}?` : 'unknown';

const percent = (fatigue) => (fatigue ? `${Math.round(100 * fatigue.probability)}\u00a0%` : '');

/** A picture's faces in a few words. */
function summary(faces) {
  if (faces.length < 2) return faces.length ? `${nameOf(faces[0].identity)} · ${percent(faces[0].fatigue)}` : 'no face';
  const drowsy = faces.filter((f) => f.fatigue?.drowsy).length;
  return `${count(faces.length, 'face')}${drowsy ? `, ${number(drowsy)} drowsy` : ''}`;
}

// ---- The stage: the picture and what is drawn over it ----

function stage() {
  const canvas = h('canvas', { role: 'img', 'aria-label': 'The picture, with its faces' });
  const hint = h('div', { class: 'stage-hint' });
  const node = h('div', { class: 'stage' }, canvas, hint);
  const g = canvas.getContext('2d');
  let fit = { scale: 1, x: 0, y: 0 }; // the picture's pixels to the page's

  /** Drawn in the screen's own pixels, so that lines and words stay sharp. */
  function prepare(width, height) {
    const [w, hgt, dpr] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio];
    canvas.width = Math.round(w * dpr);
    canvas.height = Math.round(hgt * dpr);
    g.setTransform(dpr, 0, 0, dpr, 0, 0);
    const scale = Math.min(w / width, hgt / height);
    fit = { scale, x: (w - width * scale) / 2, y: (hgt - height * scale) / 2 };
  }

  const place = (x, y, shot) => [fit.x + (shot.x + x * shot.scale) * fit.scale, fit.y + (shot.y + y * shot.scale) * fit.scale];

  function boxOf({ box }, shot) {
    const k = shot.scale * fit.scale;
    return [...place(box.x, box.y, shot), box.width * k, box.height * k];
  }

  function label(text, x, y, colour) {
    g.font = '600 13px system-ui, sans-serif';
    const w = g.measureText(text).width + 16;
    const left = Math.max(4, Math.min(x, canvas.clientWidth - w - 4));
    const top = y < 30 ? y + 8 : y - 30;
    g.fillStyle = colour;
    g.beginPath();
    g.roundRect(left, top, w, 24, 6);
    g.fill();
    g.fillStyle = '#fff';
    g.fillText(text, left + 8, top + 16.5);
  }

  function drawFace(face, shot, chosen) {
    const [x, y, w, hgt] = boxOf(face, shot);
    const colour = face.fatigue?.drowsy ? '#c2410c' : '#0b7a66';
    g.lineWidth = chosen ? 3 : 1.75;
    g.strokeStyle = colour;
    g.beginPath();
    g.roundRect(x + 1, y + 1, w - 2, hgt - 2, 9);
    g.stroke();
    g.fillStyle = '#ffd166';
    for (const p of face.landmarks) {
      g.beginPath();
      g.arc(...place(p.x, p.y, shot), 3, 0, 7);
      g.fill();
    }
    const fatigue = face.fatigue ? ` · ${percent(face.fatigue)}` : '';
    label(`${nameOf(face.identity)}${fatigue}`, x + (y < 30 ? 8 : 0), y, colour);
  }

  /** A picture of an aligned face, back where the face is. */
  function drawAligned(picture, face, shot) {
    const { box } = face;
    const [a, b, x, y] = face.landmarks.length ? alignment(face.landmarks) : [box.width, 0, box.x, box.y];
    const k = shot.scale * fit.scale;
    const [left, top] = place(x, y, shot);
    g.save();
    g.transform(a * k, b * k, -b * k, a * k, left, top);
    g.drawImage(picture, 0, 0, 1, 1);
    g.restore();
  }

  return {
    node, canvas,
    /** image: what to show, of width x height; shot: how the faces' pixels lie in
     * it; map: an explanation of the chosen face. */
    draw(image, width, height, { faces = [], shot, chosen = 0, guide, map }) {
      prepare(width, height);
      g.drawImage(image, fit.x, fit.y, width * fit.scale, height * fit.scale);
      if (map) drawAligned(map, faces[chosen], shot);
      if (guide) drawGuide(g, fit.x, fit.y, width * fit.scale, height * fit.scale);
      if (shot) faces.forEach((f, i) => drawFace(f, shot, i === chosen));
      hint.hidden = true;
    },
    say(...content) {
      canvas.width = 0;
      hint.replaceChildren(...content);
      hint.hidden = false;
    },
    describe(faces) {
      canvas.setAttribute('aria-label', faces.length
        ? `The picture with ${faces.map((f) => `${nameOf(f.identity)}, ${f.fatigue?.drowsy ? 'drowsy' : 'alert'}`).join('; ')}`
        : 'The picture; no face is in it');
    },
    /** Which face is at the event's place, or -1. */
    at(event, faces, shot) {
      const r = canvas.getBoundingClientRect();
      return faces.findIndex((f) => {
        const [x, y, w, hgt] = boxOf(f, shot);
        const [px, py] = [event.clientX - r.left, event.clientY - r.top];
        return px >= x && px <= x + w && py >= y && py <= y + hgt;
      });
    },
  };
}

// ---- What is said of the chosen face, and of the call ----

function readings() {
  const dial = gauge();
  const trace = curve({ seconds: 60, max: 1, label: 'fatigue' });
  const who = h('p', { class: 'who' }, '–');
  const list = h('ol', { class: 'matches' });
  const poor = h('p', { class: 'muted' });
  const split = h('div', { class: 'split', role: 'img' });
  const legend = h('dl', { class: 'facts' });
  let state = '';
  dial.set(undefined);

  function identity(i, task) {
    who.textContent = !task ? '–' : i ? nameOf(i) : '–';
    who.dataset.verdict = i?.verdict ?? '';
    list.replaceChildren(...(i?.matches ?? []).map((m) => {
      const fill = h('span', { class: 'meter-fill' });
      fill.style.width = `${Math.max(0, 100 * m.similarity)}%`;
      const limit = h('span', { class: 'meter-limit' });
      limit.style.left = `${100 * i.threshold}%`;
      return h('li', null, h('a', { href: `#drivers/${m.identity_id}` }, m.name),
        h('span', { class: 'meter', role: 'img', 'aria-label': `similarity ${number(m.similarity, 2)}, threshold ${number(i.threshold, 2)}` }, fill, limit),
        h('span', { class: 'figure' }, number(m.similarity, 2)));
    }));
    if (i && !i.matches.length) list.append(h('li', { class: 'muted' }, 'The gallery is empty: enrol somebody under Drivers.'));
  }

  function timing(t, trip, batch, rate) {
    split.replaceChildren(...STAGES.map((name) => {
      const part = h('span', { class: `part part-${name}`, title: `${name} ${duration(t[name] / 1000)}` });
      part.style.flexGrow = Math.max(t[name], 0);
      return part;
    }));
    split.setAttribute('aria-label', STAGES.map((n) => `${n} ${duration(t[n] / 1000)}`).join(', '));
    legend.replaceChildren(...STAGES.map((n) => h('div', { class: `key key-${n}` }, h('dt', null, n), h('dd', null, duration(t[n] / 1000)))),
      h('div', null, h('dt', null, 'server'), h('dd', null, duration(t.total / 1000))),
      h('div', null, h('dt', null, 'round trip'), h('dd', null, duration(trip / 1000))),
      h('div', null, h('dt', null, 'batch size'), h('dd', { id: 'batch' }, number(batch))),
      ...(rate ? [h('div', null, h('dt', null, 'answers a second'), h('dd', null, number(rate, 1)))] : []));
  }

  return {
    cards: [card('Fatigue', null, dial.node, trace.node),
      card('Identity', null, who, list, poor),
      card('Latency', null, split, legend)],
    /** watched: what comes is one after the other, and makes a curve; pictures do not. */
    clear(watched) {
      trace.clear();
      trace.node.hidden = !watched;
      dial.set(undefined);
      state = '';
    },
    tick: trace.draw,
    show(answer, face, trip, rate) {
      dial.set(face?.fatigue ?? null);
      if (!trace.node.hidden) trace.add(face?.fatigue ? face.fatigue.probability : null, face?.fatigue?.threshold);
      identity(face?.identity, face);
      if (face?.identity) who.append(h('small', null, WORDS[face.identity.verdict] ?? ''));
      poor.textContent = face?.quality_reasons.length ? `A poor picture of a face: ${quality(face.quality_reasons)}.` : '';
      timing(answer.timing_ms, trip, answer.batch_size, rate);
      const next = face ? `${nameOf(face.identity)}, ${face.fatigue?.drowsy ? 'drowsy' : 'alert'}` : 'no face';
      if (next !== state) announce(next);
      state = next;
    },
  };
}

// ---- Where an answer comes from ----

/** ask(task) resolves to the picture of the chosen face and what to call it. */
function explanation(ask) {
  const task = h('select', { id: 'explain-task', 'aria-label': 'Branch to explain' },
    h('option', { value: 'fatigue' }, 'fatigue'), h('option', { value: 'recognition' }, 'identity'));
  const button = h('button', { type: 'button', id: 'explain', disabled: true, onclick: run }, 'Explain');
  const picture = h('img', { width: 112, height: 112, hidden: true });
  const words = h('p', { class: 'muted' });
  let busy = false;
  let able = false;
  let turn = 0; // what is asked of one face is not shown beside another

  function clear() {
    turn++;
    picture.hidden = true;
    words.textContent = 'Grad-CAM, on demand: what in the face speaks for the answer.';
  }
  clear();

  const show = () => { button.disabled = busy || !able; };

  async function run() {
    busy = true;
    show();
    const chosen = task.selectedOptions[0].textContent;
    const mine = ++turn;
    try {
      const { blob, name } = await ask(task.value);
      if (mine !== turn) throw new DOMException('another face is looked at', 'AbortError');
      URL.revokeObjectURL(picture.src);
      picture.src = URL.createObjectURL(blob);
      picture.alt = `${name}: what speaks for the ${chosen} answer, from blue (nothing) to red (most)`;
      picture.hidden = false;
      words.textContent = `${name}, ${chosen}: red speaks most for the answer, blue not at all.`;
      announce(`The ${chosen} answer of ${name} is explained`);
    } catch (e) {
      if (e.name !== 'AbortError') announce(words.textContent = `Not explained: ${e.message}`);
    }
    busy = false;
    show();
    if (document.activeElement === document.body) button.focus(); // it was disabled with the focus on it
  }

  return {
    node: card('Explanation', null, h('div', { class: 'row' }, task, button), h('div', { class: 'explained' }, picture, words)),
    enable(on) {
      able = on;
      show();
    },
    clear,
    close: () => URL.revokeObjectURL(picture.src),
  };
}

// ---- The page ----

export function open(root, server) {
  const view = stage();
  const panel = readings();
  const why = explanation(askWhy);
  const video = h('video', { muted: true, playsinline: true, class: 'unseen', 'aria-hidden': 'true', tabindex: '-1' });
  video.muted = true;
  const problem = h('p', { class: 'problem', role: 'alert' });
  const strip = h('ul', { class: 'strip', 'aria-label': 'Pictures' });
  const rate = h('select', { id: 'rate' }, RATES.map(([n, text]) => h('option', { value: n }, text)));
  const file = h('input', { type: 'file', id: 'files', class: 'unseen', multiple: true, accept: 'image/*,video/*' });
  const go = h('button', { type: 'button', class: 'primary', id: 'camera' }, 'Start the camera');
  const input = () => inputOf(server);
  const choice = inputChoice(server, 'live-input');
  const which = h('select', { id: 'face', onchange: () => choose(which.selectedIndex) });
  const several = h('span', { class: 'row', hidden: true }, h('label', { for: 'face', class: 'muted' }, 'Face'), which);

  let aborter = new AbortController(); // of what plays or is sent: the camera, a clip, pictures
  let last = { faces: [], shot: null }; // and the answer, how it was sent; still: redraws a picture
  let chosen = 0;
  let running = false;
  let raf = 0;

  const idle = () => view.say(
    h('p', { class: 'stage-title' }, 'Nothing is on'),
    h('p', null, input() === 'crop' ? 'Start the camera, or drop aligned pictures of a face here.' : 'Start the camera, or drop pictures and clips here.'));

  function offer(faces) {
    const names = faces.map((f, i) => `${i + 1}: ${nameOf(f.identity)}`);
    if (names.join() !== [...which.options].map((o) => o.text).join()) // else it may be open
      which.replaceChildren(...names.map((n) => h('option', null, n)));
    which.selectedIndex = chosen;
    several.hidden = faces.length < 2;
  }

  /** Of several faces, the one that is read and explained. */
  function choose(i) {
    chosen = i;
    offer(last.faces);
    why.clear();
    panel.clear(running);
    panel.show(last.answer, last.faces[i], last.trip, last.rate);
    last.still?.();
  }

  function fail(e) {
    if (e.name !== 'AbortError') problem.textContent = e.message;
  }

  function stop() {
    running = false;
    cancelAnimationFrame(raf);
    aborter.abort();
    aborter = new AbortController();
    why.enable(false);
    why.clear();
    chosen = 0;
    offer([]);
    go.textContent = 'Start the camera';
    go.classList.add('primary');
  }

  function paint() {
    if (!running) return;
    if (video.videoWidth)
      view.draw(video, video.videoWidth, video.videoHeight, { ...last, chosen, guide: input() === 'crop' });
    panel.tick();
    raf = requestAnimationFrame(paint);
  }

  async function askWhy(task) {
    const asked = last;
    const face = Math.min(chosen, asked.faces.length - 1);
    const blob = await explain(asked.shot.blob, { input: asked.input, task, face, signal: aborter.signal });
    if (asked.still && asked === last) asked.still({ map: await createImageBitmap(blob), chosen: face });
    return { blob, name: nameOf(asked.faces[face].identity) };
  }

  function take(answer, shot, trip, perSecond) {
    const faces = answer.frames[0]?.faces ?? [];
    last = { faces, shot, input: input(), answer, trip, rate: perSecond };
    why.enable(faces.length > 0);
    chosen = Math.min(chosen, Math.max(0, faces.length - 1));
    offer(faces);
    view.describe(faces);
    panel.show(answer, faces[chosen], trip, perSecond);
  }

  async function loop(signal) {
    const ends = []; // of the last answers
    while (!signal.aborted) {
      const began = performance.now();
      try {
        const shot = await grab(video, input());
        const sent = performance.now();
        const answer = await analyze(shot.blob, { input: input(), signal });
        const now = performance.now();
        ends.push(now);
        while (ends.length > 1 && now - ends[0] > 5000) ends.shift();
        problem.textContent = '';
        take(answer, shot, now - sent, ends.length > 2 ? ((ends.length - 1) * 1000) / (now - ends[0]) : 0);
      } catch (e) {
        if (signal.aborted) return;
        fail(e);
        last = { faces: [], shot: null };
        why.enable(false);
        await new Promise((r) => setTimeout(r, e.status === 503 ? 250 : 1500));
      }
      const wait = Number(rate.value) ? 1000 / Number(rate.value) - (performance.now() - began) : 0;
      await new Promise((r) => setTimeout(r, Math.max(0, wait)));
    }
  }

  async function play(opening) {
    stop();
    const { signal } = aborter;
    problem.textContent = '';
    strip.replaceChildren();
    last = { faces: [], shot: null };
    panel.clear(true);
    try {
      await opening(signal);
    } catch (e) {
      if (signal.aborted) return;
      fail(e);
      idle();
      return;
    }
    if (signal.aborted) return;
    running = true;
    go.textContent = 'Stop';
    go.classList.remove('primary');
    paint();
    loop(signal);
  }

  async function picture(f, item, signal) {
    const sentAs = input();
    const shot = await load(f, sentAs);
    const sent = performance.now();
    const answer = await analyze(shot.blob, { input: sentAs, signal });
    const trip = performance.now() - sent;
    const faces = answer.frames[0]?.faces ?? [];
    const show = () => {
      chosen = 0;
      why.clear();
      panel.show(answer, faces[0], trip, 0);
      last = { faces, shot, input: sentAs, answer, trip, rate: 0 };
      last.still = (more) => view.draw(shot.image, shot.image.width, shot.image.height, { ...last, chosen, ...more });
      last.still();
      offer(last.faces);
      view.describe(last.faces);
      why.enable(last.faces.length > 0);
      for (const b of strip.querySelectorAll('button')) b.removeAttribute('aria-current');
      button.setAttribute('aria-current', 'true');
    };
    const button = h('button', { type: 'button', onclick: show },
      thumbnail(shot.image), h('span', { title: f.name }, f.name),
      h('small', null, summary(faces)));
    if (faces.some((f) => f.fatigue?.drowsy)) button.classList.add('drowsy');
    item.replaceChildren(button);
    show();
  }

  async function takeFiles(files) {
    const clips = files.filter(isClip);
    const pictures = files.filter((f) => !isClip(f));
    if (clips.length) {
      await play((signal) => openClip(video, clips[0], signal));
      return;
    }
    if (!pictures.length) return;
    stop();
    problem.textContent = '';
    panel.clear(false);
    strip.replaceChildren();
    const { signal } = aborter;
    for (const f of pictures) {
      const item = h('li', null, h('span', { class: 'muted' }, `${f.name} …`));
      strip.append(item);
      try {
        await picture(f, item, signal);
      } catch (e) {
        if (signal.aborted) return;
        fail(e);
        item.replaceChildren(h('span', { class: 'problem' }, `${f.name}: ${e.message}`));
      }
    }
  }

  go.addEventListener('click', () => {
    if (running) {
      stop();
      last = { faces: [], shot: null };
      idle();
    } else {
      play((signal) => openCamera(video, signal));
    }
  });
  file.addEventListener('change', () => {
    takeFiles([...file.files]);
    file.value = '';
  });
  view.node.addEventListener('dragover', (e) => {
    e.preventDefault();
    view.node.classList.add('over');
  });
  view.node.addEventListener('dragleave', () => view.node.classList.remove('over'));
  view.node.addEventListener('drop', (e) => {
    e.preventDefault();
    view.node.classList.remove('over');
    takeFiles([...e.dataTransfer.files]);
  });
  view.canvas.addEventListener('click', (e) => {
    const i = last.shot ? view.at(e, last.faces, last.shot) : -1;
    if (i >= 0) choose(i);
  });

  const onModel = () => {
    if (!running && !strip.children.length) idle();
  };
  server.addEventListener('model', onModel);
  idle();
  root.append(h('div', { class: 'live' },
    h('div', { class: 'stage-column' },
      h('h1', { class: 'unseen' }, 'Live'),
      h('div', { class: 'row tools' }, go,
        h('label', { class: 'button', for: 'files' }, 'Pictures or a clip'), file,
        several, h('span', { class: 'grow' }), choice.node,
        h('label', { for: 'rate', class: 'muted' }, 'Send'), rate),
      view.node, problem, strip, video),
    h('div', { class: 'side' }, ...panel.cards, why.node)));
  return () => {
    stop();
    why.close();
    choice.close();
    server.removeEventListener('model', onModel);
  };
}

function thumbnail(image) {
  const c = h('canvas', { width: 96, height: 72, 'aria-hidden': 'true' });
  const scale = Math.max(96 / image.width, 72 / image.height);
  const [w, hgt] = [image.width * scale, image.height * scale];
  c.getContext('2d').drawImage(image, (96 - w) / 2, (72 - hgt) / 2, w, hgt);
  return c;
}
