// The Live page: pictures, the camera and clips, what is said of them, and what
// goes wrong.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { api, behaved, browse, drawn, drop, enrolled, holdCameras, holdRequests, leave, realFrame, scene, serve, shoot, tracksAre } from './harness.js';

const s = scene();
const sampleDriver = () => enrolled(s.server, 'Sample Driver', 'fleet-7', [drawn('e1.png', { identity: 7 }),
  drawn('e2.png', { identity: 7, noise: 3, light: 0.9 }), drawn('e3.png', { identity: 7, noise: 5, turn: 0.1 })]);
const gauge = (page) => page.locator('.gauge').getAttribute('aria-valuetext');

test('live: pictures that are uploaded get an answer each', async () => {
  const page = await s.page();
  await page.getByText('No face detector.').waitFor();
  await page.getByText('Untrained model.').waitFor();
  assert.equal(await gauge(page), 'nothing yet');
  await page.setInputFiles('#files', [drawn('a.png', { identity: 1 }), drawn('b.jpg', { identity: 2, eyes: 0.1 })]);
  await page.locator('.strip button').nth(1).waitFor();
  assert.match(await page.locator('.strip').innerText(), /a\.png[\s\S]*unknown[\s\S]*b\.jpg/);
  assert.match(await page.locator('.gauge').getAttribute('aria-valuetext'), /^\d+ percent, (alert|drowsy)$/);
  assert.ok(await page.locator('.side .curve').isHidden(), 'pictures are no course of time');
  assert.equal(await page.locator('#batch').innerText(), '1');
  assert.match(await page.locator('.split').getAttribute('aria-label'), /decode .*compute .*match/);
  assert.doesNotMatch(await page.locator('.facts').innerText(), /^0$/m); // no rate of single pictures
  await page.getByText('The gallery is empty').waitFor();
  await leave(page);
});

test('live: a picture is dropped on the stage, and the one before is shown again', async () => {
  const page = await s.page();
  await drop(page, '.stage', drawn('first.png', { identity: 1 }));
  await page.locator('.strip button').waitFor();
  await page.setInputFiles('#files', [drawn('one.png', { identity: 3 }), drawn('two.png', { identity: 4 })]);
  await page.locator('.strip button[aria-current]').getByText('two.png').waitFor();
  await page.locator('.strip button').filter({ hasText: 'one.png' }).click();
  await page.locator('.strip button[aria-current]').getByText('one.png').waitFor();
  assert.equal(await page.locator('.strip button[aria-current]').count(), 1);
  await leave(page);
});

test('live: an answer is explained on demand, by the keyboard', async () => {
  const page = await s.page();
  const button = page.getByRole('button', { name: 'Explain' });
  assert.ok(await button.isDisabled(), 'nothing to explain yet');
  await page.setInputFiles('#files', drawn('why.png', { identity: 1 }));
  await page.locator('.strip button').waitFor();
  const middle = () => page.locator('.stage canvas').evaluate((c) =>
    [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].join());
  const before = await middle();
  await page.getByLabel('Branch to explain').focus();
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  const picture = page.getByRole('img', { name: /unknown: what speaks for the fatigue answer/ });
  await picture.waitFor();
  assert.equal(await picture.evaluate((i) => i.decode().then(() => i.naturalWidth)), 112);
  assert.notEqual(await middle(), before, 'the stage does not show it');
  await page.locator('#announcer').getByText('The fatigue answer of unknown is explained').waitFor({ state: 'attached' });
  assert.equal(await page.evaluate(() => document.activeElement.id), 'explain');
  const first = await picture.getAttribute('src');
  await page.getByLabel('Branch to explain').selectOption('identity');
  await button.click();
  const other = page.getByRole('img', { name: /what speaks for the identity answer/ });
  await other.waitFor();
  assert.notEqual(await other.getAttribute('src'), first);
  await shoot(page, 'explain');
  await leave(page);
});

test('live: what explains one picture is not shown beside another', async () => {
  const page = await s.page();
  await page.setInputFiles('#files', [drawn('one.png', { identity: 3 }), drawn('two.png', { identity: 4 })]);
  const two = page.locator('.strip button').filter({ hasText: 'two.png' });
  await two.and(page.locator('[aria-current]')).waitFor();
  const picture = page.getByRole('img', { name: /what speaks for/ });
  await page.getByRole('button', { name: 'Explain' }).click();
  await picture.waitFor();
  await page.locator('.strip button').filter({ hasText: 'one.png' }).click();
  await picture.waitFor({ state: 'hidden' });
  await page.getByText('Grad-CAM, on demand').waitFor();
  // Nor is an answer that comes late.
  const held = await holdRequests(page, 'POST', '**/v1/explain*');
  await page.getByRole('button', { name: 'Explain' }).click();
  await two.click();
  const late = page.waitForResponse('**/v1/explain*');
  held.release();
  await (await late).finished();
  await page.locator('#explain:enabled').waitFor();
  assert.ok(await picture.isHidden());
  await leave(page);
});

test('live: what is no picture is said to be none', async () => {
  const page = await s.page();
  await page.setInputFiles('#files', { name: 'notes.png', mimeType: 'image/png', buffer: Buffer.from('no picture') });
  await page.getByRole('alert').filter({ hasText: 'notes.png: this is not a picture' }).waitFor();
  await leave(page);
});

test('live: the camera is watched, the driver recognised, the curve drawn', async () => {
  await sampleDriver();
  const page = await s.page();
  await page.getByRole('button', { name: 'Start the camera' }).click();
  await page.locator('.who').getByText('Sample Driver').waitFor();
  await page.locator('.who').getByText('recognised').waitFor();
  await page.waitForFunction((n) => (document.querySelector('.curve-line').getAttribute('d')?.match(/L/g) ?? []).length > n, process.env.MODEL ? 40 : 2);
  await page.getByText('answers a second').waitFor();
  assert.match(await gauge(page), /^\d+ percent, (alert|drowsy)$/);
  assert.match(await page.locator('.split').getAttribute('aria-label'), /decode .*compute .*match/);
  assert.equal(await page.locator('#batch').innerText(), '1');
  // The canvas shows the film, not black.
  const lit = await page.locator('.stage canvas').evaluate((c) => {
    const { data } = c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1);
    return data[0] + data[1] + data[2];
  });
  assert.ok(lit > 60, `the middle of the stage is ${lit}`);
  await shoot(page, 'live');
  await page.emulateMedia({ colorScheme: 'dark' });
  await shoot(page, 'live-dark');
  await page.getByRole('button', { name: 'Explain' }).click();
  await page.getByRole('img', { name: /Sample Driver: what speaks for the fatigue answer/ }).waitFor();
  await page.getByRole('button', { name: 'Stop' }).click();
  await page.getByText('Nothing is on').waitFor();
  await leave(page);
});

/** How many pictures the page has sent; to be called again. */
function counted(page) {
  let sent = 0;
  page.on('request', (r) => { sent += r.url().includes('/v1/analyze'); });
  return () => sent;
}

test('live: a camera that is allowed after the page was left stays off, and nothing is sent', async () => {
  const page = await s.page();
  const sent = counted(page);
  await holdCameras(page);
  await page.getByRole('button', { name: 'Start the camera' }).click();
  await tracksAre(page, 'live');
  await page.getByRole('link', { name: 'System', exact: true }).click();
  await page.locator('.tile').first().waitFor();
  await page.evaluate(() => window.release());
  await tracksAre(page, 'ended');
  assert.equal(sent(), 0);
  await leave(page);
});

test('live: a camera that is started twice is one, which Stop stops', async () => {
  const page = await s.page();
  await holdCameras(page);
  const start = page.getByRole('button', { name: 'Start the camera' });
  await start.click();
  await start.click();
  await tracksAre(page, 'live', 'live');
  await page.evaluate(() => window.release());
  await page.waitForResponse((r) => r.url().includes('/v1/analyze') && r.ok());
  await tracksAre(page, 'ended', 'live');
  await page.getByRole('button', { name: 'Stop' }).click();
  await tracksAre(page, 'ended', 'ended');
  await page.getByText('Nothing is on').waitFor();
  await leave(page);
});

test('live: pictures that are still read when the page is left are not sent', async () => {
  const page = await s.page();
  const sent = counted(page);
  await page.evaluate(() => {
    const read = window.createImageBitmap;
    const held = new Promise((go) => { window.release = go; });
    window.createImageBitmap = async (...of) => {
      window.reading = true;
      await held;
      return read(...of);
    };
  });
  await page.setInputFiles('#files', [drawn('one.png', { identity: 3 }), drawn('two.png', { identity: 4 })]);
  await page.waitForFunction(() => window.reading);
  await page.getByRole('link', { name: 'System', exact: true }).click();
  await page.locator('.tile').first().waitFor();
  await page.evaluate(() => {
    window.release();
    return new Promise((r) => setTimeout(r, 500)); // time to send it
  });
  assert.equal(sent(), 0);
  await leave(page);
});

test('live: a clip is played and watched; one that cannot be played is named', async () => {
  const page = await s.page();
  const face = readFileSync(drawn('clip.png', { identity: 7 }));
  const clip = await page.evaluate(async (bytes) => {
    const picture = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 224;
    const g = canvas.getContext('2d');
    const recorder = new MediaRecorder(canvas.captureStream(10), { mimeType: 'video/webm' });
    const parts = [];
    recorder.ondataavailable = (e) => parts.push(e.data);
    const over = new Promise((done) => { recorder.onstop = done; });
    recorder.start();
    for (let i = 0; i < 12; i++) {
      g.drawImage(picture, 0, i, 224, 224);
      await new Promise((r) => setTimeout(r, 100));
    }
    recorder.stop();
    await over;
    return [...new Uint8Array(await new Blob(parts).arrayBuffer())];
  }, [...face]);
  const play = (name, mimeType, bytes) => page.setInputFiles('#files', { name, mimeType, buffer: Buffer.from(bytes) });
  await play('clip.webm', 'video/webm', clip);
  await page.getByRole('button', { name: 'Stop' }).waitFor();
  await page.waitForFunction(() => /L/.test(document.querySelector('.curve-line').getAttribute('d') ?? ''));
  assert.match(await gauge(page), /^\d+ percent, (alert|drowsy)$/);
  await play('film.mp4', 'video/mp4', 'no film');
  await page.getByRole('alert').filter({ hasText: 'film.mp4: this browser cannot play it' }).waitFor();
  await page.getByText('Nothing is on').waitFor();
  await leave(page);
});

test('live: a camera that is not allowed, or is not there, is said to be, and pictures still work', async () => {
  const bare = await browse(s.server, { camera: false });
  try {
    for (const [page, text] of [[await s.page({ camera: false }), 'not allowed to use the camera'],
      [await bare.page(), 'There is no camera on this machine']]) {
      await page.getByRole('button', { name: 'Start the camera' }).click();
      await page.getByRole('alert').filter({ hasText: text }).waitFor();
      await page.setInputFiles('#files', drawn('c.png', { identity: 3 }));
      await page.locator('.strip button').waitFor();
      await leave(page);
    }
  } finally {
    await bare.close();
  }
});

test('live: the server goes while the camera runs: said, and watched on when it is back', async () => {
  const page = await s.page();
  await page.getByRole('button', { name: 'Start the camera' }).click();
  await page.waitForFunction(() => /L/.test(document.querySelector('.curve-line').getAttribute('d') ?? ''));
  await s.server.stop();
  const problem = page.getByRole('alert').filter({ hasText: 'does not answer' });
  await problem.waitFor();
  await page.getByText('The server is gone.').waitFor();
  s.server = await serve({ port: s.server.port });
  await problem.waitFor({ state: 'detached' });
  await page.getByText('The server is gone.').waitFor({ state: 'detached' });
  await page.waitForResponse((r) => r.url().includes('/v1/analyze') && r.ok());
  // The curve's last point, which moves to the left as time goes by, is a new one.
  await page.waitForFunction(() => Number(/([\d.]+) [\d.]+$/.exec(document.querySelector('.curve-line').getAttribute('d'))[1]) > 595);
  assert.match(await gauge(page), /percent/);
  await leave(page);
});

test('live: with a detector, boxes and landmarks of real frames, and one of several faces chosen', async (t) => {
  const [frame, couple] = [realFrame(), realFrame('multi_couple.jpg')];
  if (!frame || !couple) {
    console.log('SKIPPED tests/browser real frames: ../shared/data is not here');
    t.skip();
    return;
  }
  const other = await serve({ data: 'real', flags: [] });
  const second = await browse(other);
  try {
    const page = await second.page();
    assert.equal(await page.getByText('No face detector.').count(), 0);
    await page.setInputFiles('#files', frame);
    await page.locator('.strip button').waitFor();
    const ask = (picture) => api(other, 'POST', 'v1/analyze?return=landmarks', { type: 'image/jpeg', body: readFileSync(picture) });
    const answer = await ask(frame);
    assert.equal(answer.frames[0].faces.length, 1);
    assert.equal(answer.frames[0].faces[0].landmarks.length, 5);
    // A drawn face is no frame; said to be aligned, it is taken as it is.
    await page.getByLabel('Pictures are').selectOption('aligned faces');
    await page.setInputFiles('#files', drawn('aligned.png', { identity: 1 }));
    await page.locator('.strip').getByText('aligned.png', { exact: true }).waitFor();
    await page.locator('.strip button').waitFor();
    assert.match(await page.locator('.gauge').getAttribute('aria-valuetext'), /percent/);
    await page.getByLabel('Pictures are').selectOption('whole frames');
    await page.setInputFiles('#files', frame);
    await page.locator('.strip button').getByText('driver_00').waitFor();
    // A landmark's yellow and the box's line are where the answer says that they are.
    const { box, landmarks } = answer.frames[0].faces[0];
    const at = (x, y) => page.locator('.stage canvas').evaluate((c, { x, y, width, height }) => {
      const k = Math.min(c.width / width, c.height / height);
      return [...c.getContext('2d').getImageData((c.width - width * k) / 2 + x * k, (c.height - height * k) / 2 + y * k, 1, 1).data];
    }, { x, y, width: answer.frames[0].width, height: answer.frames[0].height });
    const [r, g, b] = await at(landmarks[2].x, landmarks[2].y);
    assert.ok(r > 230 && g > 180 && b < 150, `rgb(${r} ${g} ${b}) is not a landmark's yellow`);
    const line = (await at(box.x + 1, box.y + box.height / 2)).slice(0, 3);
    const colours = [[194, 65, 12], [11, 122, 102]]; // drowsy, alert
    assert.ok(colours.some((c) => c.every((v, i) => Math.abs(v - line[i]) < 60)), `rgb(${line}) is not a box's line`);
    assert.ok(await page.getByLabel('Face', { exact: true }).isHidden(), 'one face needs no choice');

    const two = (await ask(couple)).frames[0];
    assert.ok(two.faces.length > 1);
    const percent = (f) => `${Math.round(100 * f.fatigue.probability)} percent, ${f.fatigue.drowsy ? 'drowsy' : 'alert'}`;
    await page.setInputFiles('#files', couple);
    const choice = page.getByLabel('Face', { exact: true });
    await choice.waitFor();
    assert.equal(await choice.locator('option').count(), two.faces.length);
    await page.locator('.strip').getByText(`${two.faces.length} faces`).waitFor();
    assert.equal(await gauge(page), percent(two.faces[0]));
    await choice.selectOption({ index: 1 });
    assert.equal(await gauge(page), percent(two.faces[1]));
    await page.getByRole('button', { name: 'Explain' }).click();
    await page.getByRole('img', { name: /what speaks for the fatigue answer/ }).waitFor();
    await shoot(page, 'two-faces');
    const stage = await page.locator('.stage canvas').boundingBox();
    const k = Math.min(stage.width / two.width, stage.height / two.height);
    const first = two.faces[0].box;
    await page.mouse.click(stage.x + (stage.width - two.width * k) / 2 + (first.x + first.width / 2) * k,
      stage.y + (stage.height - two.height * k) / 2 + (first.y + first.height / 2) * k);
    assert.equal(await choice.evaluate((n) => n.selectedIndex), 0);
    assert.equal(await gauge(page), percent(two.faces[0]));
    assert.deepEqual(second.faults, []);
  } finally {
    await second.close();
    await other.stop();
  }
});

behaved(s);
