/** Whole files in the cache directory: eviction, power cuts, damage, and directories that cannot be used. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { decodeWhole, encodeWhole } from '../../fs-gateway/data/whole-record.ts';
import { umountVolume } from '../../fs-gateway/main.ts';
import { mountTestVolume, testVolume } from '../support/fs-volume.ts';
import type { MountedVolume } from '../support/fs-volume.ts';
import { run, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import {
  HASH,
  converse,
  makeWhole,
  python,
  readElsewhere,
  sha,
  volumeStats,
  volumeWithFile,
  writeElsewhere,
} from './passthrough-volume.ts';

const MIB = 2 ** 20;

/** The files of the cache directory whose paths end so. */
function cached(mount: MountedVolume, pattern: RegExp): string[] {
  const dir = join(mount.base, 'cache');
  const names = readdirSync(dir, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => pattern.test(name)).map((name) => join(dir, name));
}

describe.skipIf(cannotMount() || cannotPassThrough())('whole files', () => {
  test('it is whole for the next mount of the mount point, without being fetched again', async () => {
    const { volume, content } = await volumeWithFile(testVolume, 'f', 2 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    expect(cached(mount, /whole\/..\/\d+$/).map((path) => sha(readFileSync(path)))).toEqual([sha(content)]);
    await umountVolume(mount.mountpoint);
    const next = await mountTestVolume(volume, { passthrough: 'read', at: mount });
    expect(await python(next, 'f', HASH)).toBe(sha(content));
    expect((await volumeStats(next)).passthroughOpens).toBe(1);
  });

  test('eviction takes the file least recently opened, and never one with a backing id in use', async () => {
    const { volume, content, other } = await volumeWithFile(testVolume, 'a', 3 * MIB);
    await writeElsewhere(other, 'b', content);
    await writeElsewhere(other, 'c', content);
    const mount = await mountTestVolume(volume, { passthrough: 'read', cacheBytes: 8 * MIB });
    await makeWhole(mount, 'a');
    const program = converse(
      mount,
      'a',
      `held = os.open(path, os.O_RDONLY); say('open'); hear(); say(hashlib.sha256(open(path, 'rb').read()).hexdigest()); hear()`,
    );
    expect(await program.hear()).toBe('open');
    const [inUse] = cached(mount, /whole\/..\/\d+$/);
    await makeWhole(mount, 'b');
    expect((await run('cat', [`${mount.mountpoint}/c`])).status).toBe(0);
    await until(
      'c is whole instead of b',
      () => cached(mount, /whole\/..\/\d+\.ok$/).length === 2 && cached(mount, /whole\/..\/\d+$/).length === 2,
    );
    expect(cached(mount, /whole\/..\/\d+$/)).toContain(inUse);
    program.say('go on');
    expect(await program.hear()).toBe(sha(content));
    program.say('end');
  });

  test('after a new boot a whole file is verified before it is used: what a power cut tore is fetched again', async () => {
    const { volume, content } = await volumeWithFile(testVolume, 'f', 2 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    await umountVolume(mount.mountpoint);
    const [record = ''] = cached(mount, /\.ok$/);
    writeFileSync(record, encodeWhole({ ...decodeWhole(readFileSync(record), record), bootId: 'another' }));
    const file = record.replace(/\.ok$/, '');
    const torn = readFileSync(file);
    torn.fill(0, MIB, MIB + 4096);
    writeFileSync(file, torn);
    const next = await mountTestVolume(volume, { passthrough: 'read', at: mount });
    expect(await python(next, 'f', HASH)).toBe(sha(content));
    expect((await volumeStats(next)).passthroughOpens).toBe(0);
    await until('it is whole again', async () => (await volumeStats(next)).filling === 0);
    expect(sha(readFileSync(file))).toBe(sha(content));
    expect(await python(next, 'f', HASH)).toBe(sha(content));
    expect((await volumeStats(next)).passthroughOpens).toBe(1);
  });

  test('a damaged record, a file without record and a foreign name in the directory cost nothing but a fetch', async () => {
    const { volume, content } = await volumeWithFile(testVolume, 'f', 2 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    await umountVolume(mount.mountpoint);
    const [record = ''] = cached(mount, /\.ok$/);
    writeFileSync(record, 'damaged');
    writeFileSync(join(record, '../77'), 'not its folder');
    writeFileSync(join(record, '../258'), 'without a record');
    writeFileSync(join(record, '../78.tmp'), 'a record that was being written');
    const next = await mountTestVolume(volume, { passthrough: 'read', at: mount });
    expect(await python(next, 'f', HASH)).toBe(sha(content));
    expect(readdirSync(join(record, '..')).filter((name) => /^7|^258/.test(name))).toEqual([]);
  });

  test('a cache directory that vanishes while mounted costs speed only', async () => {
    const { volume, content, other } = await volumeWithFile(testVolume, 'f', 2 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `held = os.open(path, os.O_RDONLY); say('open'); hear()
say(hashlib.sha256(os.pread(held, ${3 * MIB}, 0)).hexdigest()); say(hashlib.sha256(open(path, 'rb').read()).hexdigest()); hear()`,
    );
    expect(await program.hear()).toBe('open');
    rmSync(join(mount.base, 'cache'), { recursive: true, force: true });
    program.say('go on');
    expect(await program.hear()).toBe(sha(content));
    expect(await program.hear()).toBe(sha(content));
    program.say('end');
    await program.running.finished;
    expect(await python(mount, 'f', HASH)).toBe(sha(content));
    expect(await python(mount, 'new', `open(path, 'w').write('small'); say(open(path).read())`)).toBe('small');
    expect((await readElsewhere(other, 'new')).toString()).toBe('small');
  });
});

describe.skipIf(cannotMount() || cannotPassThrough())('where passthrough is not possible', () => {
  test('a cache directory on tmpfs falls back to the daemon, and one line says why', async () => {
    const { volume, content } = await volumeWithFile(testVolume, 'f', 2 * MIB);
    const cacheDir = `/dev/shm/penstock-test-${process.pid}`;
    try {
      const mount = await mountTestVolume(volume, { passthrough: 'read', cacheDir });
      expect(mount.passthroughProblem).toBe(`the cache directory ${cacheDir} is on tmpfs`);
      expect(await python(mount, 'f', HASH)).toBe(sha(content));
      expect(await volumeStats(mount)).toMatchObject({ passthrough: 'off', passthroughOpens: 0 });
      await umountVolume(mount.mountpoint);
    } finally {
      rmSync(cacheDir, { recursive: true, force: true });
    }
  });
});
