// A server with a folder of its own, drawn faces, and a browser whose camera
// is a film of drawn faces: one of each for a file of tests.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const PROGRAMS = process.env.PROGRAMS;
const SHOTS = 'build/screenshots';
const PATIENCE_MS = 180_000; // only how long a failure takes

export const folder = mkdtempSync(join(tmpdir(), 'tscaf-browser-'));
// $MODEL, for pictures of the console with a trained network, or a small one that knows nothing.
const model = process.env.MODEL ?? join(folder, 'model.safetensors');
if (!process.env.MODEL)
  execFileSync(join(PROGRAMS, 'tscaf-model'), ['init', 'tests/support/tiny.json', model], { stdio: 'ignore' });
export const clean = () => rmSync(folder, { recursive: true, force: true });

/** A drawn face, by the numbers that tscaf-model sample takes; its path. */
export function drawn(name, numbers) {
  const path = join(folder, name);
  const flags = Object.entries(numbers).flatMap(([k, v]) => [`--${k}`, String(v)]);
  execFileSync(join(PROGRAMS, 'tscaf-model'), ['sample', ...flags, path], { stdio: 'ignore' });
  return path;
}

/** A film of somebody who falls asleep and wakes up, as a camera's file. */
function film() {
  const path = join(folder, 'camera.mjpeg');
  writeFileSync(path, '');
  for (let i = 0; i < 12; i++) {
    const tired = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / 12);
    const still = readFileSync(drawn('still.jpg', { identity: 7, eyes: (1 - 0.9 * tired).toFixed(2),
      mouth: (0.6 * tired).toFixed(2), turn: (0.2 * tired).toFixed(2) }));
    for (let n = 0; n < 5; n++) appendFileSync(path, still);
  }
  return path;
}

/** tscafd, which takes drawn faces as they are unless told otherwise; port 0
 * picks a free one. stop() ends it and keeps its data. */
export async function serve({ port = 0, data = 'data', flags = ['--detector', 'none'] } = {}) {
  const child = spawn(join(PROGRAMS, 'tscafd'),
    ['--listen', `127.0.0.1:${port}`, '--data', join(folder, data), '--model', model, ...flags],
    { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (text) => { log += text; });
  const ended = new Promise((done) => child.once('exit', done));
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    port = port || Number(/listens on \S+ port (\d+)/.exec(log)?.[1] ?? 0);
    if (log.includes('"ready:')) break;
    if (child.exitCode !== null || Date.now() > until) throw new Error(`tscafd does not get ready:\n${log}`);
    await new Promise((r) => setTimeout(r, 50));
  }
  return { port, url: `http://127.0.0.1:${port}/`, stop: async () => {
    child.kill('SIGTERM');
    await ended;
  } };
}

/** The API, by an admin's key where there is one; the JSON that it answers. */
export async function api(server, method, path, { type, body, key } = {}) {
  const answer = await fetch(server.url + path, { method, body,
    headers: { ...type && { 'Content-Type': type }, ...key && { Authorization: `Bearer ${key}` } } });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

/** Somebody who is enrolled, by drawn pictures unless a test before did. */
export async function enrolled(server, name, external, pictures) {
  const { identities } = await api(server, 'GET', `v1/identities?query=${encodeURIComponent(external)}`);
  const who = identities.find((i) => i.external_id === external) ??
    await api(server, 'POST', 'v1/identities', { type: 'application/json', body: JSON.stringify({ name, external_id: external }) });
  if (!who.face_count)
    for (const picture of pictures)
      await api(server, 'POST', `v1/identities/${who.id}/faces?input=crop&force=true`, { type: 'image/png', body: readFileSync(picture) });
  return who;
}

/** Chromium. faults: whatever any page complained of, or asked of others. */
export async function browse(server, { camera = true } = {}) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', ...camera
    ? ['--use-fake-device-for-media-stream', `--use-file-for-fake-video-capture=${film()}`] : []] });
  const faults = [];
  return {
    faults,
    close: () => browser.close(),
    async page({ camera: allowed = true, hash = '', ...options } = {}) {
      const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, colorScheme: 'light', ...options });
      if (allowed) await context.grantPermissions(['camera'], { origin: server.url });
      const page = await context.newPage();
      page.setDefaultTimeout(PATIENCE_MS);
      page.on('pageerror', (e) => faults.push(`${e}`));
      // Answers of 4xx are what some tests are about; what the policy refused is not.
      page.on('console', (m) => {
        if (/Content.Security.Policy|Trusted ?Type/i.test(m.text())) faults.push(m.text());
      });
      page.on('request', (r) => {
        if (!r.url().startsWith(server.url) && !r.url().startsWith('blob:')) faults.push(`asked for ${r.url()}`);
      });
      await page.goto(server.url + hash);
      await page.locator('main > *').first().waitFor();
      return page;
    },
  };
}

/** Keeps what the page looks like, for people. */
export async function shoot(page, name, options) {
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: `${SHOTS}/${name}.png`, ...options });
}

/** A real frame, where the machine has one. */
export function realFrame(name = 'driver_00_drowsy_g005.jpg') {
  const frame = join(process.env.TSCAF_TEST_DATA ?? '../shared/data', 'frames', name);
  return existsSync(frame) ? frame : null;
}

/** What a file of tests goes on: a server, whose gallery fills, and a browser;
 * ends with a test of what its pages did behind their backs. */
export function scene() {
  const s = { page: (options) => s.browser.page(options) };
  before(async () => {
    s.server = await serve();
    s.browser = await browse(s.server);
  });
  after(async () => {
    await s.browser?.close();
    await s.server?.stop();
    clean();
  });
  return s;
}
export const behaved = (s) => test('nothing was asked of others, the policy refused nothing', () =>
  assert.deepEqual(s.browser.faults, []));

/** Holds cameras back, as somebody does who thinks about the browser's question:
 * window.release() allows them. */
export const holdCameras = (page) => page.evaluate(() => {
  const media = navigator.mediaDevices;
  const opened = media.getUserMedia.bind(media);
  const held = new Promise((go) => { window.release = go; });
  window.tracks = [];
  media.getUserMedia = async (what) => {
    const stream = await opened(what);
    window.tracks.push(...stream.getTracks());
    await held;
    return stream;
  };
});

/** Waits until the tracks of these cameras are 'live' or 'ended', one after the other. */
export const tracksAre = (page, ...states) => page.waitForFunction((want) =>
  window.tracks.map((t) => t.readyState).join() === want, states.join());

/** Holds the page's requests of a method to addresses that fit url back until
 * release(); then answer(route) has them. count() is how many there were. */
export async function holdRequests(page, method, url, answer = (route) => route.continue()) {
  let n = 0;
  let release;
  const held = new Promise((go) => { release = go; });
  await page.route(url, async (route) => {
    if (route.request().method() !== method) return route.fallback();
    n++;
    await held;
    return answer(route);
  });
  return { count: () => n, release };
}

/** Not while a route's answer is on its way: it would find no page. */
export async function leave(page) {
  await page.unrouteAll({ behavior: 'wait' });
  await page.context().close();
}

/** Drops a picture there, as somebody does by the mouse. */
export async function drop(page, selector, path) {
  const dataTransfer = await page.evaluateHandle(({ bytes, name }) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/png' }));
    return data;
  }, { bytes: [...readFileSync(path)], name: basename(path) });
  for (const event of ['dragover', 'drop']) await page.dispatchEvent(selector, event, { dataTransfer });
}
