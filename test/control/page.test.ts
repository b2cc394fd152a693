/** The admin page in a real Chromium, over a real pipeline. */
import { join } from 'node:path';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { absoluteUrl } from '../../lib/registry.ts';
import { DATASET } from '../compactor/pipeline.ts';
import { FIRST, openTwoTenants } from './two-tenants.ts';
import { openTestVolume } from '../support/fs-volume.ts';
import { missing, requireService } from '../support/services.ts';
import { rolling } from './fleet.ts';
import { type Control, landedPipeline, startControl, writeCostsOfDays } from './control.ts';
import { HANG_MS } from '../support/hang.ts';
import { contentAt, removeFile, writeFile } from '../tools/volume-files.ts';

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const VIEWS = [
  'pipeline',
  'agents',
  'datasets',
  `datasets/${DATASET}`,
  'runs',
  'forecasts',
  'lineage',
  'quarantine',
  'volumes',
  'connections',
  'sql',
];

describe.skipIf(missing('chromium'))('the admin page', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: requireService('chromium'), args: ARGS, timeout: HANG_MS });
  });
  afterAll(() => browser.close());

  /** A page that fails the test for any error in its console and any request to another host. */
  async function openPage(control: Control, options: Parameters<Browser['newContext']>[0] = {}): Promise<Page> {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const problems: string[] = [];
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error' && !/status of 40[01]/.test(message.text())) problems.push(message.text());
    });
    page.on('request', (request) => {
      if (!request.url().startsWith(control.url) && !request.url().startsWith('data:'))
        problems.push(`asked ${request.url()}`);
    });
    page.setDefaultTimeout(HANG_MS);
    onTestFinished(async () => {
      await context.close();
      expect(problems).toEqual([]);
    });
    return page;
  }

  test('shows the pipeline, and every view fits a phone and a desk in both colour schemes', async () => {
    const { pipeline, rows } = await landedPipeline();
    await writeCostsOfDays(pipeline.lake, 60);
    const control = await startControl(pipeline.config, pipeline.dir);
    for (const { colorScheme, width } of [
      { colorScheme: 'light', width: 1280 },
      { colorScheme: 'dark', width: 390 },
    ] as const) {
      const page = await openPage(control, { colorScheme, viewport: { width, height: 900 } });
      for (const view of VIEWS) {
        await page.goto(`${control.url}/#/${view}`);
        await page.locator('main h2').first().waitFor();
        await page.locator('main .loading').first().waitFor({ state: 'detached' });
        expect(await page.locator('main .state.bad').count(), view).toBe(0);
        const overflow = await page.evaluate(
          'document.documentElement.scrollWidth - document.documentElement.clientWidth',
        );
        expect([view, width, overflow]).toEqual([view, width, 0]);
      }
      await page.goto(`${control.url}/#/pipeline`);
      expect(await page.locator('.stage').nth(2).locator('.figure').textContent()).toBe(`${rows + 6} records`);
      await page.locator('.plot canvas').first().waitFor();
      const background = await page.evaluate('getComputedStyle(document.body).backgroundColor');
      expect(background).toBe(colorScheme === 'light' ? 'rgb(247, 248, 249)' : 'rgb(18, 22, 26)');
    }
  });

  test('a roll-out is watched and steered, on a phone too', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const { fleet, start, before } = await rolling(control, 6);
    const after = await start();
    fleet.says.set(after, { refuses: true });
    await fleet.beat();
    // What an agent makes of what it was told is in its next report.
    await fleet.beat();
    const page = await openPage(control, { colorScheme: 'dark', viewport: { width: 390, height: 900 } });
    page.on('dialog', (dialog) => void dialog.accept());
    await page.goto(`${control.url}/#/agents`);
    const group = page.getByRole('article', { name: 'Group plant-a' });
    await group.getByRole('alert').filter({ hasText: '1 refused it' }).waitFor();
    await page.getByRole('cell', { name: /refused: a test says so/ }).waitFor();
    expect(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')).toBe(0);
    await group.getByRole('button', { name: 'Resume' }).click();
    await group.getByRole('button', { name: 'Stop' }).click();
    await group.getByText('stopped: by local').waitFor();
    // By keyboard, and what is focused stays so when the figures change.
    const abort = group.getByRole('button', { name: 'Abort' });
    await abort.focus();
    fleet.says.delete(after);
    await fleet.beat();
    await fleet.beat();
    await group.getByText(/^Of \d updated agents: \d well\.$/).waitFor();
    await page.keyboard.press('Enter');
    await group.getByText('aborted', { exact: true }).waitFor();
    expect(await group.getByRole('button').count()).toBe(0);
    await fleet.beat();
    expect(fleet.with(before)).toHaveLength(6);
  });

  test('the platform looks at one tenant; who is of one sees that one', async () => {
    const { control, parties } = await openTwoTenants();
    const shownTo = async (token: string): Promise<Page> => {
      const page = await openPage(control, { viewport: { width: 390, height: 900 } });
      await page.goto(`${control.url}/#/datasets`);
      await page.getByRole('textbox', { name: 'Token' }).fill(token);
      await page.keyboard.press('Enter');
      return page;
    };
    const page = await shownTo(FIRST);
    await page.getByRole('link', { name: 'team-b.unit' }).waitFor();
    await page.getByLabel('Tenant').selectOption('team-a');
    await page.getByRole('link', { name: 'team-b.unit' }).waitFor({ state: 'detached' });
    await page.getByRole('link', { name: 'team-a.unit' }).waitFor();
    expect(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')).toBe(0);
    const own = await shownTo(parties[1]?.token ?? '');
    await own.getByRole('link', { name: 'team-b.unit' }).waitFor();
    expect(await own.getByLabel('Tenant').isDisabled()).toBe(true);
    expect(await own.getByLabel('Tenant').inputValue()).toBe('team-b');
  });

  test('a connection is tested at a button, which says what is wrong', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const made = await control.request('POST', '/v1/connections', {
      body: { name: 'cache', address: 'redis://127.0.0.1:1/0', tags: { team: 'vision' }, region: 'hall 3' },
    });
    expect(made.status, made.text).toBe(201);
    const page = await openPage(control, { colorScheme: 'dark', viewport: { width: 390, height: 900 } });
    await page.goto(`${control.url}/#/connections`);
    await page.getByRole('button', { name: 'Test cache' }).click();
    await page
      .getByRole('status')
      .filter({ hasText: 'ECONNREFUSED' })
      .filter({ hasText: 'check host and port' })
      .waitFor();
    expect(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')).toBe(0);
  });

  test('lineage is a graph from snapshot to job to model, and a list that says the same', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    for (const [job, model] of [
      ['train-17', 'anomaly-v3'],
      ['train-18', 'anomaly-v4'],
      ['look at it', undefined],
    ]) {
      const used = await control.request('POST', '/v1/lineage', { body: { dataset: DATASET, job, model } });
      expect(used.status, used.text).toBe(201);
    }
    await control.request('POST', '/v1/agents/edge-1/heartbeat', {
      body: { status: { rules: [{ when: 'spoolUsed >80%', active: true, times: 2 }] } },
    });
    // One that says nonsense is no reason to show none.
    const nonsense = await control.request('POST', '/v1/agents/edge-2/heartbeat', {
      body: { status: { readings: [], rules: 'none', sources: [null], config: { version: 1 } } },
    });
    const page = await openPage(control, { viewport: { width: 390, height: 900 } });
    await page.goto(`${control.url}/#/lineage`);
    await page.getByRole('img', { name: /^1 snapshot, 3 jobs, 2 models/ }).waitFor();
    expect(await page.locator('.lineage path').count()).toBe(5);
    expect(await page.getByRole('cell', { name: 'anomaly-v4' }).count()).toBe(1);
    // What the rules of an agent do stands beside it.
    await page.goto(`${control.url}/#/agents`);
    await page.getByRole('cell', { name: 'spoolUsed >80% 2 ×' }).waitFor();
    expect(nonsense.status).toBe(204);
    expect(await page.locator('td', { hasText: /^\?$/ }).count()).toBe(3);
    expect(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')).toBe(0);
  });

  test('the volume is limited, snapshotted and brought back from its trash at buttons, which say what refuses it', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const made = await control.request('PUT', '/v1/volumes/lake', { body: { options: { trash: '1d' } } });
    expect(made.status, made.text).toBe(204);
    const volume = {
      base: pipeline.dir,
      metaUrl: absoluteUrl(pipeline.config.meta, pipeline.dir),
      storeDir: join(pipeline.dir, 'objects'),
    };
    const open = await openTestVolume(volume);
    await writeFile(open, 'gone', Buffer.from('back'));
    await removeFile(open, 'gone');
    const page = await openPage(control, { colorScheme: 'dark', viewport: { width: 390, height: 900 } });
    page.on('dialog', (dialog) => void dialog.accept());
    await page.goto(`${control.url}/#/volumes`);
    const name = page.getByRole('textbox', { name: 'Name of the snapshot' });
    await name.fill('a b');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').filter({ hasText: 'expected 1 to 128 letters' }).waitFor();
    await name.fill('before');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Delete snapshot before' }).click();
    await page.getByText('No snapshot', { exact: true }).waitFor();
    await page.getByRole('textbox', { name: 'Directory' }).fill('/');
    await page.getByRole('spinbutton', { name: 'Limit in GB' }).fill('2.5');
    await page.getByRole('button', { name: 'Set the limit' }).click();
    await page.getByRole('cell', { name: '2.5 GB' }).waitFor();
    await page.getByRole('button', { name: 'Bring back /gone' }).click();
    await page.getByText('Nothing is in the trash').waitFor();
    for (const name of ['snapshots.create', 'snapshots.delete', 'quotas.set', 'trash.restore']) {
      await page.locator('tr', { hasText: name }).filter({ hasText: 'done' }).first().waitFor();
    }
    expect(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')).toBe(0);
    expect(String(await contentAt(await openTestVolume(volume, 'later'), '/gone'))).toBe('back');
  });

  test('the quarantine shows the records of a commit', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const page = await openPage(control);
    await page.goto(`${control.url}/#/quarantine`);
    await page.getByRole('button', { name: /^Show/ }).first().click();
    await page.getByText('{"ts": oops 1004', { exact: true }).waitFor();
  });

  test('SQL runs by keyboard alone, and says what is wrong', async () => {
    const { pipeline, rows } = await landedPipeline();
    const control = await startControl(pipeline.config, pipeline.dir);
    const page = await openPage(control);
    await page.goto(control.url);
    // Skip link, brand, then the views in order: the last is SQL.
    for (let press = 0; press < 12; press++) await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.locator('#sql').focus();
    await page.keyboard.press('Control+A');
    await page.keyboard.type(`SELECT count(*) AS n FROM ${DATASET}`);
    await page.keyboard.press('Control+Enter');
    await page.getByRole('cell', { name: String(rows), exact: true }).waitFor();
    await page.locator('#sql').fill("SELECT '<img src=x onerror=alert(1)>' AS text");
    await page.keyboard.press('Control+Enter');
    await page.getByRole('cell', { name: '<img src=x onerror=alert(1)>' }).waitFor();
  });

  test('asks for a token where one is needed, and opens with it', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const token = 'first-administrator-token-0123456789';
    const control = await startControl(pipeline.config, pipeline.dir, token);
    const page = await openPage(control);
    await page.goto(control.url);
    await page.getByRole('textbox', { name: 'Token' }).fill(token);
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: DATASET }).waitFor();
  });
});
