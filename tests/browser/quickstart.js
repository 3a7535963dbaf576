// The Live page at the address that scripts/quickstart printed: $CONSOLE, with
// the network and the detector that ship.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { browse, clean, leave, realFrame, shoot } from './harness.js';

test('quickstart: its driver is recognised and drowsy on the Live page', async () => {
  const browser = await browse({ url: process.env.CONSOLE });
  try {
    const page = await browser.page();
    await page.locator('.status').getByText('tscaf-mobilenetv2').waitFor();
    assert.equal(await page.locator('.notice').count(), 0); // trained, and with a detector
    await page.getByLabel('Pictures are').selectOption('aligned faces');
    await page.setInputFiles('#files', join(process.env.PROGRAMS, '../quickstart/drive.png'));
    await page.locator('.who').getByText('Sample Driver').waitFor();
    assert.match(await page.locator('.gauge').getAttribute('aria-valuetext'), /^\d+ percent, drowsy$/);
    const frame = realFrame();
    if (frame) {
      await page.getByLabel('Pictures are').selectOption('whole frames');
      await page.setInputFiles('#files', frame);
      await page.locator('.strip button').getByText('driver_00').waitFor();
      assert.match(await page.locator('.gauge').getAttribute('aria-valuetext'), /^\d+ percent, drowsy$/);
    }
    await page.getByRole('button', { name: 'Start the camera' }).click();
    await page.locator('#batch').waitFor();
    await shoot(page, 'quickstart');
    await leave(page);
    assert.deepEqual(browser.faults, []);
  } finally {
    await browser.close();
    clean();
  }
});
