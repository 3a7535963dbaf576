// Figures as SVG: a gauge, a curve over time, bars.
import { h, s, number } from './dom.js';

const arc = (r, from, to) => { // angles in turns, 0 at the top, clockwise
  const at = (t) => [100 + r * Math.sin(2 * Math.PI * t), 100 - r * Math.cos(2 * Math.PI * t)];
  const [x0, y0] = at(from);
  const [x1, y1] = at(to);
  return `M${x0} ${y0}A${r} ${r} 0 ${to - from > 0.5 ? 1 : 0} 1 ${x1} ${y1}`;
};
const FROM = -0.34;
const TURN = 0.68;

/** How drowsy, 0 to 1, with its threshold. */
export function gauge() {
  const path = arc(80, FROM, FROM + TURN);
  const value = s('path', { class: 'gauge-value', d: path, pathLength: 100 });
  const tick = s('line', { class: 'gauge-tick', x1: 100, y1: 9, x2: 100, y2: 33 });
  const figure = s('text', { class: 'gauge-figure', x: 100, y: 110 }, '–');
  const word = s('text', { class: 'gauge-word', x: 100, y: 138 });
  const node = s('svg', { class: 'gauge', viewBox: '0 0 200 160', role: 'meter',
    'aria-label': 'Fatigue', 'aria-valuemin': 0, 'aria-valuemax': 100 },
  s('path', { class: 'gauge-track', d: path }), value, tick, figure, word);
  return {
    node,
    /** null: there is no face; undefined: nothing was looked at. */
    set(fatigue) {
      const p = fatigue?.probability ?? 0;
      node.dataset.state = !fatigue ? 'none' : fatigue.drowsy ? 'drowsy' : 'alert';
      value.style.strokeDashoffset = 100 - 100 * p;
      tick.style.visibility = fatigue ? 'visible' : 'hidden';
      tick.setAttribute('transform', `rotate(${360 * (FROM + TURN * (fatigue?.threshold ?? 0))} 100 100)`);
      figure.textContent = fatigue ? `${number(100 * p)} %` : '–';
      word.textContent = fatigue === undefined ? '' : !fatigue ? 'no face' : fatigue.drowsy ? 'drowsy' : 'alert';
      node.setAttribute('aria-valuenow', Math.round(100 * p));
      node.setAttribute('aria-valuetext', fatigue ? `${Math.round(100 * p)} percent, ${word.textContent}` : word.textContent || 'nothing yet');
    },
  };
}

const W = 600;
const H = 140;

/** Values of the last `seconds`, from 0 to 1, or to the largest if `max` is
 * not given. add(value, threshold) now; gaps are drawn as gaps. */
export function curve({ seconds = 60, max, label, unit = '' }) {
  const line = s('path', { class: 'curve-line' });
  const area = s('path', { class: 'curve-area' });
  const limit = s('line', { class: 'curve-limit', x1: 0, x2: W, y1: -9, y2: -9 });
  const top = h('span', { class: 'curve-top' });
  const grid = [0.25, 0.5, 0.75].map((y) =>
    s('line', { class: 'curve-grid', x1: 0, x2: W, y1: y * H, y2: y * H }));
  const node = h('figure', { class: 'curve' },
    s('svg', { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
      ...grid, area, line, limit),
    top,
    h('figcaption', { class: 'axis' }, h('span', null, `−${seconds} s`), h('span', null, label), h('span', null, 'now')));
  let points = []; // {t, v}; v null: a gap
  function draw() {
    const now = performance.now();
    points = points.filter((p) => now - p.t < seconds * 1000 + 2000);
    const high = max ?? (Math.max(0, ...points.map((p) => p.v ?? 0)) * 1.15 || 1);
    const x = (p) => (W * (1 - (now - p.t) / (seconds * 1000))).toFixed(1);
    const y = (p) => (H - 3 - (H - 6) * Math.min(1, p.v / high)).toFixed(1);
    let path = '';
    let fill = '';
    let open = null;
    let last = null;
    const close = () => {
      if (open) fill += `L${x(last)} ${H}L${x(open)} ${H}Z`;
      open = null;
    };
    for (const p of points) {
      if (p.v === null || (last && p.t - last.t > 5000)) close();
      if (p.v === null) continue;
      path += `${open ? 'L' : 'M'}${x(p)} ${y(p)}`;
      fill += `${open ? 'L' : 'M'}${x(p)} ${y(p)}`;
      open ??= p;
      last = p;
    }
    close();
    line.setAttribute('d', path);
    area.setAttribute('d', fill);
    top.textContent = max === undefined ? `${number(high, high < 10 ? 1 : 0)}${unit}` : '';
  }
  return {
    node,
    draw,
    add(v, threshold) {
      points.push({ t: performance.now(), v });
      if (threshold !== undefined) {
        const at = H - 3 - (H - 6) * threshold;
        limit.setAttribute('y1', at);
        limit.setAttribute('y2', at);
      }
      draw();
    },
    clear() {
      points = [];
      draw();
    },
  };
}

/** Bars of [{label, value, title}]. A table for those who cannot see them. */
export function bars(rows, { label, empty = 'nothing yet' }) {
  const high = Math.max(...rows.map((r) => r.value), 0);
  if (!high) return h('p', { class: 'muted' }, empty);
  return h('div', { class: 'bars', role: 'img', 'aria-label':
    `${label}: ${rows.filter((r) => r.value).map((r) => `${r.label} ${number(r.value)}`).join(', ')}` },
  rows.map((r, i) => {
    const bar = h('span', { class: 'bar-fill', title: r.title ?? `${r.label}: ${number(r.value)}` });
    bar.style.height = r.value ? `${Math.max(2, (100 * r.value) / high)}%` : '0';
    return h('div', { class: 'bar-slot' }, h('span', { class: 'bar-room' }, bar),
      h('span', { class: 'bar-label' }, rows.length > 8 && i % 2 ? '' : r.label));
  }));
}

/** Several lines over a shared x: series [{name, points: [[x, y]...]}]. */
export function lines(series, { label, digits = 3 }) {
  const all = series.flatMap((l) => l.points);
  if (!all.length) return h('p', { class: 'muted' }, 'nothing yet');
  const xs = all.map((p) => p[0]);
  const ys = all.map((p) => p[1]).filter(Number.isFinite);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const [y0, y1] = [Math.min(0, ...ys), Math.max(...ys) || 1];
  const x = (v) => ((W * (v - x0)) / (x1 - x0 || 1)).toFixed(1);
  const y = (v) => (H - 3 - ((H - 6) * (v - y0)) / (y1 - y0 || 1)).toFixed(1);
  const last = (l) => l.points.length ? number(l.points[l.points.length - 1][1], digits) : '–';
  return h('figure', { class: 'curve' },
    s('svg', { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', role: 'img',
      'aria-label': `${label}: ${series.map((l) => `${l.name} ${last(l)}`).join(', ')}` },
    [0.25, 0.5, 0.75].map((v) => s('line', { class: 'curve-grid', x1: 0, x2: W, y1: v * H, y2: v * H })),
    series.map((l, i) => s('path', { class: `series series-${i}`,
      d: l.points.map((p, n) => `${n ? 'L' : 'M'}${x(p[0])} ${y(p[1])}`).join('') }))),
    h('span', { class: 'curve-top' }, number(y1, digits)),
    h('figcaption', { class: 'axis' }, h('span', null, number(x0)),
      h('span', { class: 'legend' }, series.map((l, i) =>
        h('span', { class: `legend-${i}` }, `${l.name} ${last(l)}`))),
      h('span', null, number(x1))));
}
