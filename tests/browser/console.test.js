// The console around its pages: System, narrow screens, the keyboard, colours,
// the server gone, keys.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { api, behaved, browse, drawn, enrolled, holdRequests, leave, scene, serve, shoot } from './harness.js';

const s = scene();
const PAGES = ['Live', 'Drivers', 'Training', 'System'];
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

test('system: figures of what was done', async () => {
  const { id } = await enrolled(s.server, 'Gone Driver', 'fleet-6', []);
  await api(s.server, 'DELETE', `v1/identities/${id}`);
  await enrolled(s.server, 'Sample Driver', 'fleet-7', [drawn('e1.png', { identity: 7 })]);
  const face = readFileSync(drawn('load.jpg', { identity: 4 }));
  const busy = () => api(s.server, 'POST', 'v1/analyze?input=crop', { type: 'image/jpeg', body: face });
  await busy();
  const page = await s.page({ hash: '#system' });
  await page.locator('.tile').getByText('ready', { exact: true }).waitFor();
  for (const name of ['A call of analyze, in all', 'Waiting for the network', 'Decoding', 'The network, a batch', 'The gallery, a batch'])
    await page.locator('.histogram').filter({ hasText: name }).getByText(/median .* p95/).waitFor();
  const tile = (name) => page.locator('.tile').filter({ hasText: name }).locator('dd');
  assert.equal(await tile('Faces enrolled').innerText(), '1');
  await page.getByText('identity.delete').first().waitFor();
  await page.locator('.card').filter({ has: page.getByRole('heading', { name: 'Model', exact: true }) }).getByText('multiply-adds a face').waitFor();
  const drawnFar = () => page.locator('.curve-line').first().evaluate((p) => (p.getAttribute('d')?.match(/L/g) ?? []).length >= 5);
  let rate = 0;
  while (!(rate && await drawnFar())) {
    await Promise.all([busy(), busy(), busy(), busy()]);
    rate = Math.max(rate, Number(await tile('Faces a second').innerText()) || 0);
  }
  await shoot(page, 'system', { fullPage: true });
  await leave(page);
});

test('system: the model that answers, not those that could; the first key is to be an admin\'s', async () => {
  const { models } = await api(s.server, 'GET', 'v1/models');
  const page = await s.page();
  await page.route('**/v1/models', (route) => route.fulfill({ json: { models:
    [...models, { ...models[0], state: 'candidate', model: { ...models[0].model, name: 'candidate' } }] } }));
  await page.getByRole('link', { name: 'System', exact: true }).click();
  const card = page.locator('.card').filter({ has: page.getByRole('heading', { name: 'Model', exact: true }) });
  await card.getByText(models[0].model.name, { exact: true }).waitFor();
  assert.equal(await card.locator('dl').count(), 1);
  await page.getByText('No key yet').waitFor();
  assert.equal(await page.getByLabel('Role').inputValue(), 'admin');
  await leave(page);
});

test('system: a double click makes one key', async () => {
  const page = await s.page({ hash: '#system' });
  const held = await holdRequests(page, 'POST', '**/v1/keys', // else the server would be closed
    (route) => route.fulfill({ status: 201, json: { key: {}, secret: `tscaf_${held.count()}` } }));
  await page.getByLabel('New key for').fill('ops');
  await page.getByRole('button', { name: 'Make' }).dblclick();
  held.release();
  await page.locator('#secret-shown').getByText('tscaf_1').waitFor();
  assert.equal(held.count(), 1);
  await leave(page);
});

test('system: a key that is not revoked is said to be, also when the keys are read anew', async () => {
  const page = await s.page();
  const keys = [{ id: 'k1', name: 'old', role: 'enroll', created_at: '2026-01-01T00:00:00Z' }];
  await page.route('**/v1/keys', (route) => route.fulfill({ json: { keys } }));
  await page.route('**/v1/keys/k1', (route) => {
    keys.push({ ...keys[0], id: 'k2', name: 'new' });
    return route.fulfill({ status: 500, json: { message: 'the disk is full' } });
  });
  await page.getByRole('link', { name: 'System', exact: true }).click();
  await page.getByRole('button', { name: 'Revoke old' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
  await page.locator('td').getByText('new', { exact: true }).waitFor();
  await page.getByRole('alert').filter({ hasText: 'the disk is full' }).waitFor();
  await leave(page);
});

test('narrow screen: every page fits, and can be used', async () => {
  await enrolled(s.server, 'Sample Driver', 'fleet-7', [drawn('e1.png', { identity: 7 })]);
  const page = await s.page({ viewport: { width: 390, height: 844 } });
  for (const name of PAGES) {
    await page.getByRole('link', { name, exact: true }).click();
    await page.locator('main > *').first().waitFor();
    const wide = await page.evaluate(() => document.scrollingElement.scrollWidth - window.innerWidth);
    assert.ok(wide <= 0, `${name} is ${wide} px too wide`);
    await shoot(page, `narrow-${name.toLowerCase()}`);
  }
  await page.getByRole('link', { name: 'Drivers', exact: true }).click();
  await page.locator('.people').getByText('Sample Driver').click();
  await page.getByRole('heading', { name: 'Sample Driver' }).waitFor();
  await page.getByText('← All drivers').click();
  await page.locator('.people').getByText('Sample Driver').waitFor();
  await leave(page);
});

test('an address that names no page opens Live', async () => {
  const page = await s.page({ hash: '#constructor' });
  await page.getByRole('button', { name: 'Start the camera' }).waitFor();
  await leave(page);
});

test('keyboard and names: the first tab skips to the page, everything is named', async () => {
  const page = await s.page();
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the page');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.getByRole('link', { name: 'System', exact: true }).press('Enter');
  await page.locator('.tile').first().waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.locator('.skip').press('Enter');
  assert.deepEqual(await page.evaluate(() => [document.activeElement.id, location.hash]), ['main', '#system']);
  await page.locator('.tile').first().waitFor();
  for (const hash of ['#live', '#drivers', '#training', '#system']) {
    await page.evaluate((h) => { location.hash = h; }, hash);
    await page.locator('main h1').waitFor();
    const nameless = await page.evaluate(() => [...document.querySelectorAll('button, a, input, select, svg, canvas, video')]
      .filter((n) => !n.closest('[aria-hidden="true"], [hidden]') && n.getAttribute('aria-hidden') !== 'true')
      .filter((n) => !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length || n.title))
      .map((n) => n.outerHTML.slice(0, 90)));
    assert.deepEqual(nameless, [], hash);
  }
  await leave(page);
});

test('colours: light and dark as the system has them or as chosen, and in both axe finds no fault on any page', async () => {
  const { id } = await enrolled(s.server, 'Sample Driver', 'fleet-7', [drawn('e1.png', { identity: 7 })]);
  const page = await s.page();
  const lightness = () => page.evaluate(() => {
    const g = document.createElement('canvas').getContext('2d');
    g.fillStyle = getComputedStyle(document.body).backgroundColor;
    g.fillRect(0, 0, 1, 1);
    return g.getImageData(0, 0, 1, 1).data[1];
  });
  assert.ok(await lightness() > 200);
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.ok(await lightness() < 60);
  await page.getByRole('button', { name: 'Colours: system' }).click();
  assert.ok(await lightness() > 200, 'light, as chosen');
  await page.reload();
  await page.getByRole('button', { name: 'Colours: light' }).waitFor();
  assert.ok(await lightness() > 200, 'remembered');
  const faults = [];
  for (const theme of ['light', 'dark']) {
    await page.getByRole('button', { name: `Colours: ${theme}` }).waitFor();
    for (const hash of ['live', 'drivers', `drivers/${id}`, 'training', 'system']) {
      await page.evaluate((h) => { location.hash = h; }, hash);
      await page.locator('main h1').waitFor({ state: 'attached' });
      if (hash === 'live') {
        await page.setInputFiles('#files', drawn('axe.png', { identity: 7 }));
        await page.locator('.strip button').waitFor();
      } else if (hash === `drivers/${id}`) {
        await page.locator('.face img').first().waitFor();
      } else if (hash === 'system') {
        await page.locator('.histogram').first().waitFor();
      }
      await page.evaluate(axe);
      faults.push(...await page.evaluate(async ([where, options]) => (await window.axe.run(document, options)).violations
        .flatMap((v) => v.nodes.map((n) => `${where} ${v.id}: ${n.target} ${n.any[0]?.message ?? v.help}`)), [`${theme} ${hash}`, theme === 'dark' ? { runOnly: ['color-contrast'] } : {}]));
    }
    await page.getByRole('button', { name: `Colours: ${theme}` }).click();
  }
  assert.deepEqual(faults, []);
  await leave(page);
});

test('the server gone: said, and found again when it is back', async () => {
  const page = await s.page({ hash: '#system' });
  await page.locator('.tile').getByText('ready', { exact: true }).waitFor();
  await s.server.stop();
  await page.getByText('The server is gone.').waitFor();
  await page.locator('.status.gone').waitFor();
  await shoot(page, 'server-gone');
  s.server = await serve({ port: s.server.port });
  await page.locator('.status.up').waitFor();
  await page.getByText('The server is gone.').waitFor({ state: 'detached' });
  await leave(page);
});

test('keys: asked for, refused, taken, kept to the tab; what is for admins is said to be', async () => {
  const closed = await serve({ data: 'closed' }); // of its own: it is closed afterwards
  const own = await browse(closed);
  try {
    const page = await own.page({ hash: '#system' });
    const made = async (name, role) => {
      await page.getByLabel('New key for').fill(name);
      await page.getByLabel('Role').selectOption(role);
      await page.getByRole('button', { name: 'Make' }).click();
      await page.locator('td').getByText(name, { exact: true }).or(page.getByRole('dialog')).first().waitFor();
      return page.locator('#secret-shown').innerText();
    };
    const admin = await made('ops', 'admin'); // from now on the server is closed
    const use = async (secret) => {
      await page.getByRole('dialog').getByLabel('API key').fill(secret);
      await page.getByRole('button', { name: 'Use this key' }).click();
    };
    await page.getByRole('dialog').waitFor();
    await use('tscaf_10€'); // nothing that can be sent
    await page.getByRole('dialog').getByRole('alert').filter({ hasText: '€' }).waitFor();
    await use('wrong');
    await page.getByRole('alert').filter({ hasText: 'does not know this key' }).waitFor();
    await shoot(page, 'key');
    await use(admin);
    await page.locator('td').getByText('ops', { exact: true }).waitFor();
    const reader = await made('car', 'analyze');
    await page.reload(); // the tab still has it
    await page.locator('td').getByText('car', { exact: true }).waitFor();

    await made('old', 'enroll');
    await page.getByRole('button', { name: 'Revoke old' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
    await page.locator('td').getByText('old', { exact: true }).waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Key', exact: true }).click();
    await use(reader);
    await page.getByText('Keys are for admins; your key is not one.').waitFor();
    await page.getByRole('link', { name: 'Drivers', exact: true }).click();
    await page.getByRole('alert').filter({ hasText: 'needs a key with the role enroll' }).waitFor();
    await leave(page);

    const other = await own.page(); // another tab has no key
    await other.getByRole('dialog').getByLabel('API key').waitFor();
    await leave(other);
    assert.deepEqual(own.faults, []);
  } finally {
    await own.close();
    await closed.stop();
  }
});

behaved(s);
