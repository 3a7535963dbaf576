// A server with a folder of its own, drawn faces, and a browser whose camera
// is a film of drawn faces.
import { execFileSync, spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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

/** Chromium. faults: whatever any page complained of, or asked of others. */
export async function browse(server) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox',
    '--use-fake-device-for-media-stream', `--use-file-for-fake-video-capture=${film()}`] });
  const faults = [];
  return {
    faults,
    close: () => browser.close(),
    async page({ camera = true, hash = '', ...options } = {}) {
      const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, colorScheme: 'light', ...options });
      if (camera) await context.grantPermissions(['camera'], { origin: server.url });
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
export function realFrame() {
  const frame = join(process.env.TSCAF_TEST_DATA ?? '../shared/data', 'frames/driver_00_drowsy_g005.jpg');
  return existsSync(frame) ? frame : null;
}
