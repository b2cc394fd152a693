/** A real mount of the pipeline's volume, as the API and the page show it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume, mountVolume } from '../../fs-gateway/main.ts';
import { gcVolume } from '../../fs-gateway/tools/main.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readMountReports } from '../../lib/volume/mount-reports.ts';
import { guardMount, killIfAlive, mountDirs, shell, until } from '../support/mount-guard.ts';
import { cannotMount, missing, requireService } from '../support/services.ts';
import { landedPipeline, startControl } from './control.ts';
import { HANG_MS } from '../support/hang.ts';

interface Item {
  readonly id: string;
  readonly mountpoint: string;
}

test.skipIf(cannotMount())('who uses a mount is told to the control plane, shown, and forgotten by gc', async () => {
  const { pipeline } = await landedPipeline();
  const { meta: metaUrl, store: storeUrl } = pipeline.config;
  await formatVolume({ metaUrl, storeUrl });
  const { base, mountpoint } = mountDirs();
  mkdirSync(join(base, 'cache'));
  guardMount(mountpoint);
  const mount = await mountVolume({ metaUrl, mountpoint, cacheDir: join(base, 'cache'), background: true });
  onTestFinished(() => killIfAlive(-mount.supervisorPid));
  const control = await startControl(pipeline.config, pipeline.dir);
  await shell(
    'head -c 2000000 /dev/zero > "$1/big"; dd if="$1/big" of=/dev/null bs=1M iflag=direct status=none',
    mountpoint,
  );

  const list = async (path: string): Promise<readonly Item[]> => (await control.get(path))['items'] as readonly Item[]; // the API's pages
  const sum = (items: readonly Item[], name: string): number =>
    items.reduce((total, item) => total + Number((item as unknown as Readonly<Record<string, unknown>>)[name]), 0);
  // A report may come while the programs run, and the last one when the mount has come to rest.
  await until('the mount has reported all', async () => {
    const items = await list('/v1/pods');
    return sum(items, 'readBytes') === 2_000_000 && sum(items, 'writtenBytes') === 2_000_000;
  });
  const mounts = await list('/v1/mounts');
  expect(mounts).toMatchObject([{ mountpoint, folder: null, use: { files: [{ path: '/big' }] } }]);
  const id = mounts[0]?.id ?? '';
  const pods = await list(`/v1/pods?mount=${id}`);
  expect(pods[0]).toMatchObject({ mount: id, mountpoint, perSecond: {} });
  expect(await list('/v1/pods?mount=nobody')).toEqual([]);
  // By id: the rates fall from report to report.
  const ids = (items: readonly Item[]): readonly string[] => items.map(({ id }) => id);
  const page = await control.get('/v1/pods?limit=1');
  const rest = await list(`/v1/pods?cursor=${String(page['nextCursor'])}`);
  expect(ids([...(page['items'] as readonly Item[]), ...rest])).toEqual(ids(pods));

  if (!missing('chromium')) {
    const browser = await chromium.launch({
      executablePath: requireService('chromium'),
      args: ['--no-sandbox', '--disable-gpu'],
      timeout: HANG_MS,
    });
    onTestFinished(() => browser.close());
    const view = await browser.newPage();
    view.setDefaultTimeout(HANG_MS);
    await view.goto(`${control.url}/#/volumes`);
    const who = view.getByRole('region', { name: 'Who uses them' });
    await who.getByRole('row').nth(pods.length).waitFor();
    expect(await who.getByRole('row').count()).toBe(pods.length + 1);
    expect(await who.textContent()).toContain('2.0 MB');
    expect(await view.getByRole('region', { name: 'Hot files' }).textContent()).toContain('/big');
  }

  await shell('umount "$1"', mountpoint);
  await until('its session is over', async () => (await list('/v1/mounts')).length === 0);
  const engine = await openMeta(metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  const reports = (): ReturnType<typeof readMountReports> => readMountReports(engine, new VolumeKeys('lake'));
  expect([...(await reports()).keys()]).toEqual([id]);
  // A mount whose session was lost for a moment keeps its report.
  await until('gc takes the mount for gone', async () => {
    await gcVolume({ metaUrl, dryRun: false });
    return (await reports()).size === 0;
  });
});
