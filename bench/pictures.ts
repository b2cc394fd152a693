/**
 * The pictures in docs/: the demo runs in a directory of its own, and Chromium looks at its admin page.
 *
 *   npm run pictures        writes docs/images/*.png (two minutes; needs Chromium)
 */
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
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
  { name: 'pipeline', view: 'pipeline', colorScheme: 'light', width: 1280, height: 860 },
  { name: 'pipeline-phone', view: 'pipeline', colorScheme: 'dark', width: 390, height: 844 },
  { name: 'dataset', view: 'datasets/plant.vibration', colorScheme: 'light', width: 1280, height: 960 },
  { name: 'runs', view: 'runs', colorScheme: 'dark', width: 1280, height: 720 },
  { name: 'volumes', view: 'volumes', colorScheme: 'dark', width: 1280, height: 900 },
  { name: 'lineage', view: 'lineage', colorScheme: 'light', width: 1280, height: 640 },
  { name: 'connections', view: 'connections', colorScheme: 'light', width: 1280, height: 720 },
  { name: 'connections-phone', view: 'connections', colorScheme: 'dark', width: 390, height: 844 },
] as const;

/** Nobody answers at the first. */
const CONNECTIONS = [
  {
    name: 'archive',
    address: 's3://archive/cold?endpoint=http://127.0.0.1:1&region=eu-central-1',
    region: 'eu-central-1',
    tags: { team: 'vision', tier: 'cold' },
    price: { currency: 'EUR', storageGBMonth: 0.021, gets: 0.0004, egressGB: 0.09 },
    credentials: { accessKeyId: 'AKIA-example', secretAccessKey: 'example-of-a-secret' },
  },
  { name: 'cache', address: 'redis://127.0.0.1:1/0' },
  {
    name: 'events',
    address: 'kafka://broker-1.plant.example:9092,broker-2.plant.example:9092?tls=true',
    region: 'plant-a',
    tags: { team: 'edge' },
  },
];

const USES = [
  ['train-17', 'anomaly-v3'],
  ['train-18', 'anomaly-v4'],
  ['drift-report', undefined],
] as const;

const root = join(import.meta.dirname, '..');
const images = join(root, 'docs', 'images');
const dir = mkdtempSync(join(tmpdir(), 'penstock-pictures-'));
const demo = spawn(join(root, 'bin', 'penstock'), ['demo', '--dir', dir, '--rate', '5000'], {
  stdio: ['ignore', 'ignore', 'pipe'],
  env: { ...process.env, PENSTOCK_SEAL_KEYS: randomBytes(32).toString('base64') },
});
try {
  const url = await addressOf(demo.stderr);
  await sleep(SETTLE_MS);
  // Somebody reads through the mount, and the mount reports it.
  spawnSync('sh', ['-c', 'find "$1/mnt/lake" -type f | head -n 40 | xargs cat > /dev/null', 'sh', dir]);
  await sleep(REPORTED_MS);
  for (const connection of CONNECTIONS) {
    await fetch(`${url}/v1/connections`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(connection),
    });
  }
  for (const [job, model] of USES) {
    await fetch(`${url}/v1/lineage`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ dataset: 'plant.vibration', job, model }),
    });
  }
  const browser = await chromium.launch({ executablePath: requireService('chromium'), args: ['--no-sandbox'] });
  mkdirSync(images, { recursive: true });
  for (const { name, view, colorScheme, width, height } of PICTURES) {
    const page = await browser.newPage({ colorScheme, viewport: { width, height } });
    await page.goto(`${url}/#/${view}`);
    await page.locator('main h2').first().waitFor();
    await page.locator('main .loading').first().waitFor({ state: 'detached' });
    // The plots ask for their samples when the view stands.
    for (const button of await page.getByRole('button', { name: /^Test / }).all()) await button.click();
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
