/** Exit statuses and JSON of the tools on the command line. */
import { mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openTestVolume, testVolume } from '../support/fs-volume.ts';
import { run } from '../support/mount-guard.ts';
import { tempDir } from '../support/temp.ts';
import { writeFile } from './volume-files.ts';

const PENSTOCK = join(import.meta.dirname, '../../bin/penstock');

async function penstock(
  ...args: string[]
): Promise<{ readonly status: unknown; readonly json: unknown; readonly stderr: string }> {
  const { status, stdout, stderr } = await run(PENSTOCK, ['fs', ...args, '--json']);
  return { status, stderr, json: stdout === '' ? null : JSON.parse(stdout) };
}

test('0 when all is well, 3 when something is left, 2 for bad usage, 1 for an error', async () => {
  const volume = await testVolume({ inlineBytes: '0', grace: '1h' });
  const open = await openTestVolume(volume);
  await writeFile(open, 'file', Buffer.alloc(1000, 1));
  await open.close();
  expect(await penstock('fsck', volume.metaUrl)).toMatchObject({ status: 0, json: { inodes: 2, findings: [] } });
  expect(await penstock('gc', volume.metaUrl, '--dry-run', '--grace', '0s')).toMatchObject({
    status: 0,
    json: { objects: 1, deletedObjects: 0, dryRun: true },
  });
  const dump = join(volume.base, 'dump');
  expect(await penstock('dump', volume.metaUrl, dump)).toMatchObject({ status: 0, json: { consistent: true } });
  const restored = `sqlite:${join(volume.base, 'restored.db')}`;
  expect(await penstock('load', restored, dump)).toMatchObject({ status: 0, json: { volume: 'lake' } });
  const again = await penstock('load', restored, dump);
  expect(again.status).toBe(1);
  expect(again.stderr).toContain('has records');
  for (const name of readdirSync(volume.storeDir)) rmSync(join(volume.storeDir, name), { recursive: true });
  const checked = await penstock('fsck', restored);
  expect(checked).toMatchObject({ status: 3, json: { findings: [{ kind: 'missing-object', repaired: false }] } });
  expect(JSON.stringify(checked.json)).toContain('/file: object');
  expect(await penstock('gc', restored, '--grace', 'soon')).toMatchObject({ status: 2 });
  writeFileSync(dump, 'no dump');
  expect(await penstock('load', `sqlite:${join(volume.base, 'x.db')}`, dump)).toMatchObject({ status: 1 });
  expect(readdirSync(volume.base)).not.toContain('x.db');
});

test('options of a volume are shown and changed', async () => {
  const { metaUrl } = await testVolume();
  expect(await penstock('config', metaUrl)).toMatchObject({ status: 0, json: { trashMs: 0, outdatedMounts: [] } });
  expect(await penstock('config', metaUrl, 'trash=2d', 'gc=12h')).toMatchObject({
    status: 0,
    json: { trashMs: 172_800_000, gcMs: 43_200_000 },
  });
  expect(await penstock('config', metaUrl, 'trash')).toMatchObject({ status: 2 });
  const refused = await penstock('config', metaUrl, 'blockSize=1MiB');
  expect(refused).toMatchObject({ status: 2 });
  expect(refused.stderr).toContain('blockSize of volume');
});

test('quotas are set and shown, also of the volume', async () => {
  const volume = await testVolume();
  const limited = await penstock('quota', 'set', volume.metaUrl, '/', '--bytes', '1GB', '--inodes', '1000');
  expect(limited).toMatchObject({ status: 0, json: { path: '/', bytesMax: 1e9, inodes: 1, inodesMax: 1000 } });
  expect(await penstock('quota', 'set', volume.metaUrl, '/', '--bytes', 'none')).toMatchObject({
    json: { bytesMax: null, inodesMax: 1000 },
  });
  expect(await penstock('quota', 'get', volume.metaUrl, '/')).toMatchObject({ json: { inodesMax: 1000 } });
  expect(await penstock('quota', 'get', volume.metaUrl)).toMatchObject({ json: [{ path: '/' }] });
  expect(await penstock('quota', 'set', volume.metaUrl, '/', '--inodes', 'few')).toMatchObject({ status: 2 });
  expect(await penstock('quota', 'get', volume.metaUrl, '/none')).toMatchObject({ status: 1 });
  const nothing = await penstock('quota', 'set', volume.metaUrl, '/');
  expect(nothing).toMatchObject({ status: 2, stderr: expect.stringContaining('needs a limit: --bytes') as string });
});

test('a mount is refused where it would hide its own cache, store or metadata: it would wait for itself', async () => {
  const { base, metaUrl, storeDir } = await testVolume();
  const refused = async (mountpoint: string, cacheDir: string): Promise<string> => {
    const { status, stderr } = await penstock('mount', metaUrl, mountpoint, '--cache-dir', cacheDir, '--background');
    expect(status, stderr).toBe(2);
    return stderr;
  };
  const cache = tempDir('cache');
  const link = join(cache, 'link');
  mkdirSync(join(base, 'mnt'));
  symlinkSync(join(base, 'mnt'), link);
  expect(await refused(join(base, 'mnt'), join(base, 'mnt', 'cache'))).toMatch(
    /cache directory .* below the mount point/,
  );
  expect(await refused(link, join(base, 'mnt', 'cache'))).toMatch(/cache directory .* below the mount point/);
  expect(readdirSync(join(base, 'mnt'))).toEqual([]);
  expect(await refused(base, cache)).toMatch(/metadata .* below the mount point/);
  expect(await refused(storeDir, cache)).toMatch(/object store .* below the mount point/);
});

test('sizes, durations and instants are shown as numbers and as a person reads them, in JSON as numbers alone', async () => {
  const { metaUrl } = await testVolume({ blockSize: '4MiB', trash: '36h' });
  const { stdout } = await run(PENSTOCK, ['fs', 'config', metaUrl]);
  expect(stdout).toMatch(/^blockSize +4194304 \(4\.2 MB\)$/m);
  expect(stdout).toMatch(/^trashMs +129600000 \(36h\)$/m);
  expect(stdout).toMatch(/^graceMs +86400000 \(1d\)$/m);
  expect(stdout).toMatch(/^createdMs +\d+ \(\d{4}-\d\d-\d\dT[\d:.]+Z\)$/m);
  expect(await penstock('config', metaUrl)).toMatchObject({ json: { blockSize: 2 ** 22, trashMs: 129_600_000 } });
});

test('what the operating system refuses is one line without a stack, and a mistyped path leaves nothing behind', async () => {
  const { base, metaUrl } = await testVolume();
  const lines = async (...args: string[]): Promise<unknown> => {
    const { status, stderr } = await penstock(...args);
    return [status, stderr.trimEnd().split('\n')];
  };
  const line = (text: string | RegExp): unknown => [1, [expect.stringMatching(text)]];
  const file = join(base, 'file');
  writeFileSync(file, '');
  mkdirSync(join(base, 'mnt'));
  expect(await lines('mount', metaUrl, join(base, 'mnt'), '--cache-dir', file)).toEqual(
    line(/cache directory .*EEXIST/),
  );
  expect(await lines('mount', metaUrl, join(base, 'none'))).toEqual(line(/mount point .*none does not exist$/));
  expect(await lines('stats', base)).toEqual(line(/is not a mount of Penstock$/));
  expect(await lines('warm', base)).toEqual(line(/is not in a mount of Penstock$/));
  expect(await lines('backup', 'list', `dir:${join(base, 'none')}`)).toEqual(line(/none does not exist$/));
  expect(await lines('dump', metaUrl, join(base, 'none', 'dump'))).toEqual(line(/ENOENT/));
  expect(readdirSync(base)).not.toContain('none');
  expect(await lines('config', metaUrl, 'inlineBytes=1GiB')).toEqual([
    2,
    [expect.stringMatching(/inlineBytes: expected at most 262144$/)],
  ]);
});

test('a list of nothing prints nothing on stdout, and says so on stderr', async () => {
  const { metaUrl } = await testVolume();
  const { status, stdout, stderr } = await run(PENSTOCK, ['fs', 'snapshot', 'list', metaUrl], 60_000);
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: 'penstock: nothing to show\n' });
  expect(await penstock('snapshot', 'list', metaUrl)).toMatchObject({ status: 0, json: [] });
});
