/**
 * The pictures in docs/: the demo runs in a directory of its own, and Chromium looks at its admin page.
 *
 *   npm run pictures        writes docs/images/*.png (two minutes; needs Chromium)
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from 'playwright-core';
import { requireService } from '../test/support/services.ts';

/** The plots of the last minute have something to show by then, and the compactor has run. */
const SETTLE_MS = 75_000;
const REPORTED_MS = 11_000;
const VIEW_MS = 4000;
const PICTURES = [
  { name: 'pipeline', view: 'pipeline', colorScheme: 'light', width: 1280, height: 960 },
  { name: 'pipeline-phone', view: 'pipeline', colorScheme: 'dark', width: 390, height: 844 },
  { name: 'dataset', view: 'datasets/plant.vibration', colorScheme: 'light', width: 1280, height: 960 },
  { name: 'runs', view: 'runs', colorScheme: 'dark', width: 1280, height: 720 },
  { name: 'volumes', view: 'volumes', colorScheme: 'dark', width: 1280, height: 720 },
] as const;

const root = join(import.meta.dirname, '..');
const images = join(root, 'docs', 'images');
const dir = mkdtempSync(join(tmpdir(), 'penstock-pictures-'));
const demo = spawn(join(root, 'bin', 'penstock'), ['demo', '--dir', dir, '--rate', '5000'], {
  stdio: ['ignore', 'ignore', 'pipe'],
});
try {
  const url = await addressOf(demo.stderr);
  await sleep(SETTLE_MS);
  // Somebody reads through the mount, and the mount reports it.
  spawnSync('sh', ['-c', 'find "$1/mnt/lake" -type f | head -n 40 | xargs cat > /dev/null', 'sh', dir]);
  await sleep(REPORTED_MS);
  const browser = await chromium.launch({ executablePath: requireService('chromium'), args: ['--no-sandbox'] });
  mkdirSync(images, { recursive: true });
  for (const { name, view, colorScheme, width, height } of PICTURES) {
    const page = await browser.newPage({ colorScheme, viewport: { width, height } });
    await page.goto(`${url}/#/${view}`);
    await page.locator('main h2').first().waitFor();
    await page.locator('main .loading').first().waitFor({ state: 'detached' });
    // The plots ask for their samples when the view stands.
    await sleep(VIEW_MS);
    await page.screenshot({ path: join(images, `${name}.png`) });
    await page.close();
  }
  await browser.close();
} finally {
  const ended = once(demo, 'exit');
  demo.kill('SIGINT');
  await ended;
  rmSync(dir, { recursive: true, force: true });
}

/** The address that the demo says. */
async function addressOf(output: NodeJS.ReadableStream): Promise<string> {
  let text = '';
  return new Promise((resolve, reject) => {
    output.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const url = /admin page is at (\S+)/.exec(text)?.[1];
      if (url !== undefined) resolve(url);
    });
    output.on('end', () => reject(new Error(`the demo ended: ${text}`)));
  });
}
