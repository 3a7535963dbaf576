// The Drivers page: made, enrolled, refused, found, deleted.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { api, behaved, drawn, drop, enrolled, holdCameras, holdRequests, leave, scene, shoot, tracksAre } from './harness.js';

const s = scene();

/** Makes a driver by the form; its page is open then. */
async function makeDriver(page, name, external) {
  await page.getByText('New driver').click();
  await page.getByLabel('Name', { exact: true }).fill(name);
  await page.getByLabel('Your own id').fill(external);
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('heading', { name }).waitFor();
}

test('drivers: made, enrolled from files, searched', async () => {
  const page = await s.page({ hash: '#drivers' });
  await page.getByText('Nobody is enrolled yet.').waitFor();
  await makeDriver(page, 'Sample Driver', 'fleet-7');
  await page.setInputFiles('#enroll-files', [drawn('e1.png', { identity: 7 }), drawn('e2.png', { identity: 7, noise: 3, light: 0.9 }),
    drawn('e3.jpg', { identity: 7, noise: 5, turn: 0.1 })]);
  await page.locator('.outcomes .good').nth(2).waitFor();
  await page.locator('.face img').nth(2).waitFor();
  await page.getByText('3 faces').waitFor();
  await page.getByLabel('Search').fill('nobody');
  await page.getByText('Nobody fits.').waitFor();
  await page.getByLabel('Search').fill('FLEET');
  await page.locator('.people').getByText('Sample Driver').waitFor();
  // One that is found is opened by the keyboard: the search and the focus stay on the page.
  await page.evaluate(() => { location.hash = '#drivers'; });
  await page.getByText('Choose a driver').waitFor();
  await page.locator('.people').getByRole('link', { name: 'Sample Driver' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Sample Driver' }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  assert.equal(await page.getByLabel('Search').inputValue(), 'FLEET');
  await leave(page);
});

test('drivers: poor and foreign faces are refused with reasons, and can be forced', async () => {
  const page = await s.page({ hash: '#drivers' });
  await makeDriver(page, 'Second Driver', 'fleet-8');
  await drop(page, '.drop', drawn('dark.png', { identity: 9, light: 0 }));
  await page.locator('.outcomes .bad').getByText('The face is poor: dark').waitFor();
  await page.setInputFiles('#enroll-files', drawn('again.png', { identity: 7, noise: 1 }));
  const refused = page.locator('.outcomes .bad').filter({ hasText: 'again.png' });
  await refused.getByText('enrolled already, as another driver').waitFor();
  await shoot(page, 'drivers');
  await refused.getByRole('button', { name: 'Enrol all the same' }).click();
  await page.locator('.outcomes .good').filter({ hasText: 'again.png' }).waitFor();
  await page.locator('.outcomes .bad').filter({ hasText: 'again.png' }).getByRole('link', { name: 'See who' }).click();
  await page.getByRole('heading', { name: 'Sample Driver' }).waitFor();
  await leave(page);
});

test('drivers: enrolled by the camera, a face and a driver deleted', async () => {
  const page = await s.page({ hash: '#drivers' });
  await page.locator('.people').getByText('Second Driver').click();
  await page.getByRole('button', { name: 'Use the camera' }).click();
  await page.getByRole('button', { name: 'Take a picture' }).click();
  await page.locator('.outcomes .bad').filter({ hasText: 'camera' }).getByRole('button').click();
  await page.locator('.outcomes .good').filter({ hasText: 'camera' }).waitFor();
  await page.locator('.face').nth(1).waitFor(); // the list follows the outcome
  assert.equal(await page.locator('.face').count(), 2);
  await page.locator('.face').first().getByRole('button').click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.locator('.badge').getByText('1 face', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Delete driver' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
  await page.getByRole('button', { name: 'Delete driver' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByText('Choose a driver').waitFor();
  await page.locator('.people').getByText('Second Driver').waitFor({ state: 'detached' });
  await leave(page);
});

test('drivers: a double click makes one', async () => {
  const page = await s.page({ hash: '#drivers' });
  const held = await holdRequests(page, 'POST', '**/v1/identities');
  await page.getByText('New driver').click();
  await page.getByLabel('Name', { exact: true }).fill('Fifth Driver');
  await page.getByRole('button', { name: 'Create' }).dblclick();
  held.release();
  await page.getByRole('heading', { name: 'Fifth Driver' }).waitFor();
  assert.equal(held.count(), 1);
  await leave(page);
});

test('drivers: a camera that is allowed after it was left, or put off again, stays off', async () => {
  const { id } = await enrolled(s.server, 'Late Driver', 'fleet-11', []);
  const page = await s.page({ hash: `#drivers/${id}` });
  await holdCameras(page);
  await page.getByRole('button', { name: 'Use the camera' }).click();
  await page.getByRole('button', { name: 'Camera off' }).click();
  await page.getByRole('button', { name: 'Use the camera' }).click();
  await tracksAre(page, 'live', 'live');
  await page.getByRole('link', { name: 'System', exact: true }).click();
  await page.locator('.tile').first().waitFor();
  await page.evaluate(() => window.release());
  await tracksAre(page, 'ended', 'ended');
  await leave(page);
});

test('drivers: a face that is not deleted, and faces that are not read, are said to be; an enrolment stays one', async () => {
  const { id } = await enrolled(s.server, 'Sixth Driver', 'fleet-13', [drawn('kept.png', { identity: 12 })]);
  const page = await s.page({ hash: `#drivers/${id}` });
  const said = (text) => page.getByRole('alert').filter({ hasText: text }).waitFor();
  const failing = (message) => ({ status: 500, json: { message } });
  await page.route('**/faces/*', (route) => route.request().method() === 'DELETE' ? route.fulfill(failing('the disk is full')) : route.fallback());
  await page.locator('.face').getByRole('button').click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await said('the disk is full');
  await page.route('**/faces?*', (route) => route.fulfill({ status: 201, json: {} }));
  await page.route('**/faces', (route) => route.fulfill(failing('the disk is gone')));
  await page.setInputFiles('#enroll-files', drawn('good.png', { identity: 12, noise: 3 }));
  await said('the disk is gone');
  await page.locator('.outcomes .good').getByText('enrolled').waitFor();
  await leave(page);
});

test('drivers: a name without one is asked for, an id that is taken and a driver who is gone are said to be', async () => {
  const page = await s.page({ hash: '#drivers' });
  await page.getByText('New driver').click();
  await page.getByRole('button', { name: 'Create' }).click();
  assert.ok(await page.getByLabel('Name', { exact: true }).evaluate((n) => n.matches(':invalid') && n === document.activeElement));
  const { external_id } = await enrolled(s.server, 'Third Driver', 'fleet-9', []);
  await page.getByLabel('Name', { exact: true }).fill('Fourth Driver');
  await page.getByLabel('Your own id').fill(external_id);
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('alert').filter({ hasText: 'fleet-9' }).waitFor();
  const { id } = await enrolled(s.server, 'Gone Driver', 'fleet-10', []);
  await api(s.server, 'DELETE', `v1/identities/${id}`);
  await page.evaluate((hash) => { location.hash = hash; }, `#drivers/${id}`);
  await page.getByRole('alert').filter({ hasText: id }).waitFor();
  await leave(page);
});

test('drivers: more than a page of them', async () => {
  const people = Array.from({ length: 60 }, (_, i) => `Many ${String(i).padStart(2, '0')}`);
  for (const name of people)
    await api(s.server, 'POST', 'v1/identities', { type: 'application/json', body: JSON.stringify({ name }) });
  const page = await s.page({ hash: '#drivers' });
  await page.getByLabel('Search').fill('Many');
  await page.waitForFunction(() => { // those of others are gone
    const shown = [...document.querySelectorAll('.people .person')].map((n) => n.textContent);
    return shown.length && shown.every((name) => name.startsWith('Many'));
  });
  await page.getByRole('button', { name: 'More' }).waitFor();
  while (await page.getByRole('button', { name: 'More' }).isVisible()) {
    const before = await page.locator('.people li').count();
    await page.getByRole('button', { name: 'More' }).click();
    await page.waitForFunction((n) => document.querySelectorAll('.people li').length > n, before);
  }
  const shown = await page.locator('.people li .person').allInnerTexts();
  assert.deepEqual(shown.map((n) => n.split('\n')[0]).sort(), people);
  await leave(page);
});

behaved(s);
