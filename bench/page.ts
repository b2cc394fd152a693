/**
 * When the admin page can be used: Chromium opens its first view on a running demo, again and again with nothing kept from before.
 *
 *   bin/penstock demo                             in another shell; it prints the address
 *   node bench/page.ts [URL] [--rounds N]         default http://127.0.0.1:8080, 10 rounds
 *
 * From the start of the navigation: `painted`, the browser's first contentful paint; `interactive`, the figures of the pipeline stand, nothing is being loaded, and the main thread
 * has answered a press of Tab with a focused link.
 */
import { cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { chromium, type Browser } from 'playwright-core';
import { requireService } from '../test/support/services.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '10' } },
});
const url = positionals[0] ?? 'http://127.0.0.1:8080';
const rounds = Number(values.rounds);

interface Opened {
  readonly painted: number;
  readonly interactive: number;
}

const browser = await chromium.launch({ executablePath: requireService('chromium'), args: ['--no-sandbox'] });
try {
  console.log(
    `${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}, load ${loadavg()[0]?.toFixed(1) ?? ''}; Chromium ${browser.version()}`,
  );
  // The browser itself starts its processes with the first page.
  await openOnce(browser);
  const opened: Opened[] = [];
  for (let round = 0; round < rounds; round++) opened.push(await openOnce(browser));
  for (const what of ['painted', 'interactive'] as const) {
    const sorted = opened.map((each) => each[what]).sort((a, b) => a - b);
    const at = (part: number): string => (sorted[Math.ceil(part * sorted.length) - 1] ?? NaN).toFixed(0);
    console.log(`${what}: median ${at(0.5)} ms, ${at(1 / rounds)} to ${at(1)} ms in ${rounds} rounds`);
  }
} finally {
  await browser.close();
}

async function openOnce(by: Browser): Promise<Opened> {
  // A context of its own has no cache.
  const context = await by.newContext({ viewport: { width: 1280, height: 860 } });
  try {
    const page = await context.newPage();
    await page.goto(`${url}/#/pipeline`, { waitUntil: 'commit' });
    await page.locator('main .stage .figure').first().waitFor();
    await page.locator('main .loading').first().waitFor({ state: 'detached' });
    await page.keyboard.press('Tab');
    await page.waitForFunction('document.activeElement?.tagName === "A"');
    return await page.evaluate<Opened>(`({
      painted: performance.getEntriesByName('first-contentful-paint')[0].startTime,
      interactive: performance.now(),
    })`);
  } finally {
    await context.close();
  }
}
