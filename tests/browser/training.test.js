// The Training page: datasets, a job with both queues, versions of the model.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { api, behaved, drawn, enrolled, folder, holdRequests, leave, scene, serve, shoot } from './harness.js';

const s = scene();
const PEOPLE = 10;

/** Drawn people, awake and tired: an archive for each kind of dataset. */
function archives() {
  for (const label of ['alert', 'drowsy']) mkdirSync(join(folder, 'fatigue', label), { recursive: true });
  for (let i = 1; i <= PEOPLE; i++) {
    mkdirSync(join(folder, 'people', `p${i}`), { recursive: true });
    drawn(`fatigue/alert/${i}.png`, { identity: i, noise: i, eyes: 1 });
    drawn(`fatigue/drowsy/${i}.png`, { identity: i, noise: i, eyes: 0.1, mouth: 0.7 });
    for (const noise of [1, 2, 3]) drawn(`people/p${i}/${noise}.png`, { identity: i, noise });
  }
  for (const kind of ['fatigue', 'people']) execFileSync('tar', ['-cf', join(folder, `${kind}.tar`), '-C', join(folder, kind), '.']);
}

/** A dataset, by the page's forms. */
async function makeDataset(page, name, kind, archive) {
  await page.getByLabel('New dataset').fill(name);
  await page.getByLabel('Kind').selectOption(kind);
  await page.getByRole('button', { name: 'Make' }).click();
  await page.getByLabel(`An archive for ${name}`).setInputFiles(archive);
}

async function fillJob(page, { name, steps, fatigue = false, recognition = false }) {
  await page.getByLabel('Name of the model').fill(name);
  if (fatigue) await page.getByLabel('Fatigue dataset').selectOption({ index: 1 });
  if (recognition) await page.getByLabel('Recognition dataset').selectOption({ index: 1 });
  await page.getByLabel('Training steps').fill(String(steps));
  await page.getByLabel('Pictures a step').fill('4');
  await page.getByLabel('Share kept for the test').fill('0.3');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
}

/** Waits until the job that is watched has made a step. */
async function goesOn(page) {
  const before = await page.locator('.facts dd').first().textContent();
  await page.waitForFunction((text) => document.querySelector('.facts dd').textContent !== text, before);
}

test('training: datasets made, filled by archives and one by one; what is wrong with them is said', async () => {
  archives();
  const page = await s.page({ hash: '#training' });
  await page.getByText('No dataset yet.').waitFor();
  await makeDataset(page, 'Drawn drivers', 'fatigue', join(folder, 'fatigue.tar'));
  await page.getByText(`Drawn drivers: ${2 * PEOPLE} pictures, 0 left out`).waitFor();
  await makeDataset(page, 'Drawn people', 'recognition', join(folder, 'people.tar'));
  await page.getByText(`Drawn people: ${3 * PEOPLE} pictures, 0 left out`).waitFor();
  await page.getByLabel('Label of pictures for Drawn people').fill('p1');
  await page.getByLabel('Pictures for Drawn people', { exact: true }).setInputFiles(drawn('more.png', { identity: 1, noise: 9 }));
  await page.getByText('1 picture added to Drawn people').waitFor();
  const row = page.getByRole('row').filter({ hasText: 'Drawn people' });
  assert.deepEqual((await row.getByRole('cell').allInnerTexts()).slice(1, 4), ['recognition', String(3 * PEOPLE + 1), String(PEOPLE)]);

  await page.getByRole('button', { name: 'Look at Drawn drivers' }).click();
  const seen = page.getByRole('list', { name: 'Pictures of Drawn drivers' }).getByRole('img');
  await seen.first().waitFor();
  assert.equal(await seen.count(), 2 * PEOPLE);
  assert.equal(await page.getByRole('img', { name: /^alert/ }).count(), PEOPLE);
  assert.equal(await page.getByRole('img', { name: /^drowsy/ }).count(), PEOPLE);
  assert.deepEqual(await seen.evaluateAll((all) => Promise.all(all.map((i) => i.decode().then(() => i.naturalWidth)))), Array(2 * PEOPLE).fill(112));
  await shoot(page, 'datasets');

  await makeDataset(page, 'Broken', 'fatigue', { name: 'no.tar', mimeType: 'application/x-tar', buffer: Buffer.from('no archive') });
  await page.getByRole('alert').filter({ hasText: /archive/ }).waitFor();
  assert.equal(await page.getByText('is on its way').count(), 0);
  await page.getByRole('button', { name: 'Delete Broken' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('cell', { name: 'Broken', exact: true }).waitFor({ state: 'detached' });
  await leave(page);
});

test('training: a job paused, resumed, cancelled, deleted; one without data refused', async () => {
  const page = await s.page({ hash: '#training' });
  await page.getByRole('cell', { name: 'Drawn drivers' }).first().waitFor();
  await fillJob(page, { name: 'nothing', steps: 10 });
  await page.getByRole('alert').filter({ hasText: /dataset/ }).waitFor();
  await fillJob(page, { name: 'long', steps: 100000, fatigue: true });
  const state = (text) => page.locator('#job-state').getByText(text, { exact: true }).waitFor();
  const pause = page.getByRole('button', { name: 'Pause long' });
  await pause.focus();
  for (let i = 0; i < 3; i++) await goesOn(page);
  assert.ok(await pause.evaluate((n) => n === document.activeElement), 'the focus is lost as the job goes on');
  const card = page.locator('.card').filter({ has: page.getByRole('heading', { name: 'Jobs', exact: true }) });
  assert.doesNotMatch(await card.innerText(), /false|\[object/, 'what is not to be shown is shown as a word');
  await page.keyboard.press('Enter');
  await state('paused');
  await page.waitForFunction(() => document.activeElement.textContent === 'Resume');
  await page.getByRole('button', { name: 'Resume long' }).click();
  await page.getByRole('button', { name: 'Cancel long' }).click();
  await state('cancelled');
  // Until its process has ended the server says that it has not.
  const gone = page.getByText('No job yet.');
  const early = page.getByRole('alert').filter({ hasText: 'its process has not ended yet' });
  for (;;) {
    await page.getByRole('button', { name: 'Delete long' }).click();
    await gone.or(early).first().waitFor();
    if (await gone.isVisible()) break;
  }
  await page.locator('#job-state').waitFor({ state: 'detached' });
  await leave(page);
});

test('training: a job is asked for once, however often Start is pressed meanwhile', async () => {
  const page = await s.page({ hash: '#training' });
  const held = await holdRequests(page, 'POST', '**/v1/jobs', (route) => route.fulfill({ status: 409, json: { message: 'not now' } }));
  await fillJob(page, { name: 'twice', steps: 10 });
  await page.getByRole('button', { name: 'Start', exact: true }).evaluate((b) => b.click());
  held.release();
  await page.getByRole('alert').filter({ hasText: 'not now' }).waitFor();
  assert.equal(held.count(), 1);
  await leave(page);
});

test('training: a job is watched on when the server was away, or its stream says nothing any more', async () => {
  const page = await s.page({ hash: '#training' });
  await page.getByRole('cell', { name: 'Drawn drivers' }).first().waitFor();
  await fillJob(page, { name: 'through', steps: 100000, fatigue: true });
  await goesOn(page);
  await s.server.stop();
  const lost = page.getByRole('alert').filter({ hasText: 'does not answer' });
  await lost.waitFor();
  s.server = await serve({ port: s.server.port });
  for (let i = 0; i < 3; i++) await goesOn(page);
  await lost.waitFor({ state: 'detached' });

  // A page that was left while the jobs were on their way watches none.
  let streams = 0;
  page.on('request', (r) => { streams += r.url().endsWith('/events'); });
  const go = (name) => page.getByRole('link', { name, exact: true }).click();
  await go('Live');
  const held = await holdRequests(page, 'GET', '**/v1/jobs');
  await Promise.all([page.waitForRequest('**/v1/jobs'), go('Training')]);
  await go('Live');
  const late = page.waitForResponse('**/v1/jobs');
  held.release();
  await (await late).finished();
  await page.evaluate(() => new Promise((r) => setTimeout(r, 500))); // time to ask for one
  assert.equal(streams, 0);

  // A stream that is never answered is given up after 45 s, and another asked for.
  let asked = 0;
  await page.route('**/events', (route) => asked++ > 0 && route.continue());
  await page.clock.install();
  await Promise.all([page.waitForRequest('**/events'), go('Training')]);
  await Promise.all([page.waitForRequest('**/events'), page.clock.fastForward(46_000)]);
  for (let i = 0; i < 2; i++) await goesOn(page);
  await page.getByRole('button', { name: 'Cancel through' }).click();
  await page.locator('#job-state').getByText('cancelled', { exact: true }).waitFor();
  await page.context().close(); // leave() would wait for the stream that nobody answers
});

test('training: a job of both queues watched to its end, its model compared, activated and rolled back', async () => {
  await enrolled(s.server, 'Sample Driver', 'fleet-7', [drawn('enrolled.png', { identity: 7 })]);
  const page = await s.page({ hash: '#training' });
  await page.getByRole('cell', { name: 'Drawn people' }).first().waitFor();
  await fillJob(page, { name: 'second', steps: 40, fatigue: true, recognition: true });
  await page.locator('#job-state').getByText('succeeded').waitFor();
  for (const [i, queue] of ['fatigue', 'recognition'].entries()) { // a curve each
    await page.getByText(`${queue} error (loss)`).waitFor();
    assert.match(await page.locator(`path.series-${i}`).getAttribute('d'), /^M.*L/);
  }
  await page.getByRole('columnheader', { name: 'Told apart (AUC)' }).waitFor();
  await page.getByText(/^On pictures that were kept from training/).waitFor();
  // A page that has seen none of it shows the same curves: all that the server kept, to the end.
  const { jobs } = await api(s.server, 'GET', 'v1/jobs');
  const { losses } = await api(s.server, 'GET', `v1/jobs/${jobs.find((j) => j.name === 'second').id}/losses`);
  assert.deepEqual([losses[0].step, losses.at(-1).step, losses.length], [1, 40, 40]);
  await page.reload();
  await page.getByRole('button', { name: 'Watch second' }).click();
  for (const i of [0, 1]) {
    const curve = page.locator(`path.series-${i}`);
    await curve.waitFor();
    await page.waitForFunction((name) => (document.querySelector(name).getAttribute('d').match(/L/g) ?? []).length === 39, `path.series-${i}`);
  }
  await page.getByRole('cell', { name: 'candidate' }).first().waitFor();
  // Side by side, with what the API says: the base has the figures on the pictures held out of the job.
  const { models } = await api(s.server, 'GET', 'v1/models');
  const got = JSON.parse(models.find((m) => m.model.name === 'second').card).held_out.fatigue;
  const beside = page.getByRole('table', { name: 'Two versions side by side' });
  const figures = async (name) => (await beside.getByRole('row', { name }).getByRole('cell').allInnerTexts());
  assert.deepEqual(await figures('Told apart (AUC), fatigue'), [got.base_auc.toFixed(4), got.auc.toFixed(4)]);
  assert.deepEqual(await figures('Mistakes (equal error rate), fatigue'), [got.base_equal_error_rate.toFixed(4), got.equal_error_rate.toFixed(4)]);
  assert.deepEqual(await figures('Training steps'), ['–', '40']);
  assert.deepEqual(await figures('Tested on, fatigue'), Array(2).fill(`${got.pictures} of Drawn drivers`));
  await page.getByLabel('Other version').selectOption({ index: 0 });
  assert.deepEqual(await figures('Training steps'), ['–', '–']);
  await page.getByLabel('Other version').selectOption({ index: 1 });
  await shoot(page, 'training', { fullPage: true });

  // A change over may be over before the page looks: what the API says of one on its way is held until it is shown.
  let reason = 'the faces to embed are being counted';
  let failing = false; // once; the page asks again
  await page.route('**/v1/models', (route) => {
    if (failing) {
      failing = false;
      return route.fulfill({ status: 503, json: { message: 'not now' } });
    }
    return route.fulfill({ json: { models: models.map((m) => m.model.name === 'second' ? { ...m, state: 'activating', reason } : m) } });
  });
  await page.getByRole('button', { name: /^Activate second/ }).click();
  const asked = page.getByRole('dialog').getByRole('button', { name: 'Activate' });
  const changing = page.locator('tr.activating').filter({ hasText: 'second' });
  await asked.or(changing).first().waitFor();
  if (await asked.count()) await asked.click(); // its figures did not pass: by force
  for (const next of [reason, '32 of 300 faces are embedded', '288 of 300 faces are embedded']) {
    reason = next;
    failing = true;
    await changing.getByText(next).waitFor();
  }
  await page.unrouteAll({ behavior: 'wait' });
  await page.locator('tr.active').filter({ hasText: 'second' }).waitFor();
  await page.locator('.status').getByText('second').waitFor();
  await page.getByRole('button', { name: /^Roll back/ }).click();
  await page.locator('tr.previous').filter({ hasText: 'second' }).waitFor();
  await page.locator('.status').getByText('untrained').waitFor();

  // A verdict beside a model that answers no more is taken anew.
  const job = async () => (await api(s.server, 'GET', 'v1/jobs')).jobs.find((j) => j.name === 'second');
  const before = await job();
  await page.route('**/v1/models', async (route) => {
    const all = (await (await route.fetch()).json()).models;
    await route.fulfill({ json: { models: all.map((m) => m.model.name === 'second' ? { ...m, state: 'candidate', compared_with: 'f'.repeat(16) } : m) } });
  });
  await page.reload();
  await page.getByRole('button', { name: /^Compare second .* with the one in use/ }).click();
  await page.locator('#job-state').getByText('succeeded').waitFor();
  const again = await job();
  assert.ok(again.ended_at > before.ended_at);
  assert.deepEqual(again.figures, before.figures);
  await page.unrouteAll({ behavior: 'wait' });
  await leave(page);
});

behaved(s);
