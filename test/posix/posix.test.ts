import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { mountTestVolume, testVolume } from '../support/fs-volume.ts';
import { run } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { posixCases } from './cases.ts';

const passed = Object.fromEntries(Object.keys(posixCases).map((name) => [name, null]));

async function results(dir: string): Promise<unknown> {
  const runner = fileURLToPath(import.meta.resolve('./runner.ts'));
  const { stdout, stderr } = await run(process.execPath, [runner, dir]);
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

describe('what programs rely on', () => {
  test('holds on a local disk, the oracle', async () => {
    expect(await results(tempDir('oracle'))).toEqual(passed);
  });

  test.skipIf(cannotMount())('holds on a mount', async () => {
    expect(await results((await mountTestVolume()).mountpoint)).toEqual(passed);
  });

  test.skipIf(cannotMount())('holds on a mount without inline content and with small, compressed blocks', async () => {
    const volume = await testVolume({ inlineBytes: '0', blockSize: '64KiB', compression: 'zstd' });
    expect(await results((await mountTestVolume(volume)).mountpoint)).toEqual(passed);
  });

  test.skipIf(cannotMount())('holds on a mount with writeback', async () => {
    const volume = await testVolume({ inlineBytes: '0', blockSize: '64KiB' });
    expect(await results((await mountTestVolume(volume, { writeback: true })).mountpoint)).toEqual(passed);
  });

  test.skipIf(cannotMount() || cannotPassThrough())('holds on a mount with passthrough=read', async () => {
    const volume = await testVolume({ inlineBytes: '0', blockSize: '64KiB' });
    const { mountpoint } = await mountTestVolume(volume, { passthrough: 'read' });
    expect(await results(mountpoint)).toEqual(passed);
  });

  test.skipIf(cannotMount() || cannotPassThrough())('holds on a mount with passthrough=full', async () => {
    const { mountpoint } = await mountTestVolume(await testVolume(), { passthrough: 'full' });
    expect(await results(mountpoint)).toEqual(passed);
  });

  test.skipIf(cannotMount() || cannotPassThrough())('holds with passthrough=full without inline content', async () => {
    const volume = await testVolume({ inlineBytes: '0', blockSize: '64KiB', compression: 'zstd' });
    const { mountpoint } = await mountTestVolume(volume, { passthrough: 'full' });
    expect(await results(mountpoint)).toEqual(passed);
  });
});
