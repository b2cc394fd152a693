/** A worker, or a whole machine, that is started anew an hour after it was killed, over a real Redis that others have used since. */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { FrameKind } from '../../fs-gateway/data/journal-frames.ts';
import { formatVolume, mountStats } from '../../fs-gateway/main.ts';
import { mountTestVolume, openTestVolume } from '../support/fs-volume.ts';
import type { MountedVolume, TestVolume } from '../support/fs-volume.ts';
import { isAlive, killIfAlive, until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { startRedis } from '../support/redis.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { openEngine } from '../tools/volume-bench.ts';
import { converse, makeWhole, python, readElsewhere, writeElsewhere } from './passthrough-volume.ts';
import { loseStore } from './writeback-cases.ts';

const HOUR_NS = 3_600_000_000_000n;
const CONTENT = Buffer.alloc(200_000, 'a');
const skips = missing('redis-server') || cannotMount();
const canPassThrough = !skips && !cannotPassThrough();

async function redisVolume(): Promise<TestVolume> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const base = tempDir('volume');
  const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
  return volume;
}

/** An hour goes by for a mount that no worker serves: what it has staged is so old, and its sessions are over. */
async function hourPasses(volume: TestVolume, mount: MountedVolume, own: ReadonlySet<number>): Promise<void> {
  const [path = ''] = globSync(join(mount.base, 'cache', '*', 'mount-*', 'journal'));
  const journal = new Journal(dirname(path));
  const frames = journal.read();
  expect(frames.some(({ kind }) => kind === FrameKind.BASE)).toBe(true);
  journal.rewrite(
    frames.map((frame) => (frame.kind === FrameKind.BASE ? { ...frame, timeNs: frame.timeNs - HOUR_NS } : frame)),
  );
  journal.close();
  const engine = await openEngine(volume);
  for (const { id, kind } of await engine.sessions()) if (kind === 'mount' && !own.has(id)) await engine.endSession(id);
}

interface World {
  readonly volume: TestVolume;
  readonly other: Awaited<ReturnType<typeof openTestVolume>>;
  readonly sessions: ReadonlySet<number>;
}

/** With the sessions of those who stay. */
async function world(): Promise<World> {
  const volume = await redisVolume();
  const other = await openTestVolume(volume, 'other');
  for (const name of ['f', 'g']) await writeElsewhere(other, name, CONTENT);
  const engine = await openEngine(volume);
  return { volume, other, sessions: new Set((await engine.sessions()).map(({ id }) => id)) };
}

async function keptAside({ mountpoint }: MountedVolume): Promise<unknown> {
  const stats = await mountStats(mountpoint);
  return (stats.worker as { readonly volume?: { readonly keptAside: number } } | undefined)?.volume?.keptAside;
}

function keptBytes({ base }: MountedVolume): string[] {
  return globSync(join(base, 'cache', '*', 'mount-*', 'aside', '*.json')).map((path) =>
    readFileSync(path.slice(0, -'.json'.length), 'latin1').replaceAll(/[\0a]/g, ''),
  );
}

test.skipIf(skips).each(['off', 'read', ...(canPassThrough ? (['full'] as const) : [])] as const)(
  'a worker that is started anew an hour later writes nothing over what others committed, and the program is told (passthrough=%s)',
  async (passthrough) => {
    const { volume, other, sessions } = await world();
    const mount = await mountTestVolume(volume, { passthrough });
    // Then the kernel writes them by itself.
    if (passthrough === 'full') for (const name of ['f', 'g']) await makeWhole(mount, name);
    const program = converse(
      mount,
      'f',
      `f = os.open(path, os.O_RDWR); g = os.open(path[:-1] + 'g', os.O_RDWR)
os.pwrite(f, b'sleeper', 10); os.pwrite(g, b'alone', 10)
say('written'); hear()
for fd in (f, f, g):
    try: os.fsync(fd); say('synced')
    except OSError as error: say(errno.errorcode[error.errno])
say(os.pread(f, 20, 10).decode())`.replace(/^/, 'import errno\n'),
    );
    expect(await program.hear()).toBe('written');
    const { workerPid, restarts } = await mountStats(mount.mountpoint);
    process.kill(mount.supervisorPid, 'SIGSTOP');
    process.kill(Number(workerPid), 'SIGKILL');
    await hourPasses(volume, mount, sessions);
    await writeElsewhere(other, 'f', Buffer.from('others'), 12);
    process.kill(mount.supervisorPid, 'SIGCONT');
    await until('another worker serves', async () => {
      const stats = await mountStats(mount.mountpoint);
      return stats['restarts'] !== restarts && stats['state'] === 'serving';
    });
    program.say('go on');
    const heard = [await program.hear(), await program.hear(), await program.hear(), await program.hear()];
    expect(heard).toEqual(['EIO', 'synced', 'synced', 'aaothersaaaaaaaaaaaa']);
    expect((await readElsewhere(other, 'f')).toString('latin1', 10, 20)).toBe('aaothersaa');
    expect((await readElsewhere(other, 'g')).toString('latin1', 10, 20)).toBe('aloneaaaaa');
    expect(await keptAside(mount)).toBe(1);
    expect(keptBytes(mount)).toEqual(['sleeper']);
  },
);

test.skipIf(skips)(
  'a machine that is started anew with what was promised (writeback) keeps aside what others have changed since, and commits the rest',
  async () => {
    const { volume, other, sessions } = await world();
    const mount = await mountTestVolume(volume, { writeback: true, passthrough: 'off' });
    const restore = loseStore(volume, other);
    const write = `fd = os.open(path, os.O_WRONLY); os.pwrite(fd, b'sleeper', 10); os.close(fd); say('promised')`;
    for (const name of ['f', 'g']) expect(await python(mount, name, write)).toBe('promised');
    const { workerPid } = await mountStats(mount.mountpoint);
    killIfAlive(-mount.supervisorPid);
    await until('all are gone', () => !isAlive(Number(workerPid)) && !isAlive(mount.supervisorPid));
    restore();
    await hourPasses(volume, mount, sessions);
    const [life = ''] = globSync(join(mount.base, 'cache', '*', 'mount-*', 'life'));
    writeFileSync(life, readFileSync(life, 'utf8').replace(/\n.*\n/, '\nearlier boot\n'));
    await writeElsewhere(other, 'f', Buffer.from('others'), 12);
    const second = await mountTestVolume(volume, { writeback: true, passthrough: 'off', at: mount });
    await until('it is kept aside', async () => (await keptAside(second)) === 1);
    await until(
      'the rest is committed',
      async () => (await readElsewhere(other, 'g')).toString('latin1', 10, 20) === 'sleeperaaa',
    );
    expect((await readElsewhere(other, 'f')).toString('latin1', 10, 20)).toBe('aaothersaa');
    expect(keptBytes(second)).toEqual(['sleeper']);
    expect(readFileSync(second.logPath, 'utf8')).toContain('changed elsewhere while this node was away');
  },
);
