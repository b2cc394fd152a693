/** A real mount of a volume on Redis that is stopped, or loses its worker, while Redis is emptied and a dump of the volume is loaded. */
import { connect } from 'node:net';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume, mountStats } from '../../fs-gateway/main.ts';
import { dumpToFile, loadFromFile } from '../../fs-gateway/tools/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { leastSessionId } from '../../lib/meta/session-id.ts';
import { openMeta } from '../../lib/registry.ts';
import { mountTestVolume, openTestVolume } from '../support/fs-volume.ts';
import type { MountedVolume, TestVolume } from '../support/fs-volume.ts';
import { killIfAlive, until } from '../support/mount-guard.ts';
import { startRedis } from '../support/redis.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { converse, readElsewhere, writeElsewhere } from './passthrough-volume.ts';
import type { Conversation } from './passthrough-volume.ts';

const CONTENT = Buffer.alloc(200_000, 'a');
const NAMES = ['f', 'g', 'h'];
const skips = missing('redis-server') || cannotMount();

interface World {
  readonly volume: TestVolume;
  readonly mount: MountedVolume;
  readonly workerPid: number;
  readonly program: Conversation;
  /** Redis is emptied, the dump loaded, and files are made by another node. */
  lose(): Promise<OpenVolume>;
}

/** A program on the mount has written to `f`, and its bytes are staged. */
async function world(): Promise<World> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const base = tempDir('volume');
  const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
  const path = join(base, 'dump');
  const other = await openTestVolume(volume, 'other');
  await writeElsewhere(other, 'f', CONTENT);
  await dumpToFile({ metaUrl: volume.metaUrl, path });
  await other.close();
  const mount = await mountTestVolume(volume, { passthrough: 'off' });
  const program = converse(
    mount,
    'f',
    `fd = os.open(path, os.O_RDWR); os.pwrite(fd, b'sleeper', 10); say('written'); hear(); os.fsync(fd)`,
  );
  expect(await program.hear()).toBe('written');
  const { workerPid } = await mountStats(mount.mountpoint);
  return {
    ...{ volume, mount, program, workerPid: Number(workerPid) },
    async lose() {
      await idsAreBehindTheClock(volume);
      await empty(redis.port);
      await loadFromFile({ metaUrl: volume.metaUrl, path });
      const anew = await openTestVolume(volume, 'anew');
      for (const name of NAMES) await writeElsewhere(anew, name, CONTENT);
      return anew;
    },
  };
}

/** An emptied Redis counts sessions from the seconds of its clock on, and this test has opened more than one in a second. */
async function idsAreBehindTheClock({ metaUrl }: TestVolume): Promise<void> {
  const engine = await openMeta(metaUrl, { kind: 'test' });
  await engine.close();
  await until('no id is ahead of the clock', () => leastSessionId(Date.now()) > engine.sessionId);
}

async function empty(port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect(port, '127.0.0.1', () => socket.write('FLUSHALL\r\n'));
  socket.once('data', (data) => resolve(data.toString()));
  socket.once('error', reject);
  expect(await promise).toBe('+OK\r\n');
  socket.destroy();
}

const logOf = ({ logPath }: MountedVolume): string => readFileSync(logPath, 'utf8');

/** The mount ends as by a restart of its node; what the next one there finds, and that the volume is as the other node has made it. */
async function expectKeptAside({ volume, mount, program }: World, anew: OpenVolume): Promise<void> {
  killIfAlive(-mount.supervisorPid);
  // Nobody has the device any more: its fsync fails.
  expect((await program.running.finished).status).not.toBe(0);
  const next = await mountTestVolume(volume, { passthrough: 'off', at: mount });
  await until('it is kept aside', () =>
    logOf(next).includes('was changed here before a dump of the volume was loaded'),
  );
  const [kept = ''] = globSync(join(mount.base, 'cache', '*', 'mount-*', 'aside', '*.json'));
  expect(readFileSync(kept.slice(0, -'.json'.length), 'latin1').replaceAll('\0', '')).toBe('sleeper');
  for (const name of NAMES) expect((await readElsewhere(anew, name)).equals(CONTENT), name).toBe(true);
}

test.skipIf(skips)(
  'a mount that was stopped while a dump was loaded commits nothing, and the next one keeps its bytes aside',
  async () => {
    const made = await world();
    const { mount, workerPid, program } = made;
    for (const pid of [mount.supervisorPid, workerPid]) process.kill(pid, 'SIGSTOP');
    const anew = await made.lose();
    for (const pid of [workerPid, mount.supervisorPid]) process.kill(pid, 'SIGCONT');
    program.say('go on');
    await until('it has noticed', () => logOf(mount).includes('was loaded from a dump meanwhile'));
    await expectKeptAside(made, anew);
  },
);

test.skipIf(skips)(
  'a worker that is started anew after a dump was loaded serves nothing, and the next mount keeps its bytes aside',
  async () => {
    const made = await world();
    const { mount, workerPid, program } = made;
    process.kill(mount.supervisorPid, 'SIGSTOP');
    process.kill(workerPid, 'SIGKILL');
    const anew = await made.lose();
    process.kill(mount.supervisorPid, 'SIGCONT');
    program.say('go on');
    await until('it is refused', () => logOf(mount).includes('a dump of it was loaded since'));
    await expectKeptAside(made, anew);
  },
);
