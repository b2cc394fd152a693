/** Backing files that somebody removes from the cache directory while the kernel writes them (`-o passthrough=full`). */
import { readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { mountTestVolume, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { MountedVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import {
  converse,
  HASH,
  killWorker,
  makeWhole,
  python,
  readElsewhere,
  sha,
  volumeStats,
  volumeWithFile,
} from './passthrough-volume.ts';

const MIB = 2 ** 20;
/** Writes the word that it hears at each block and by a mapping, cuts and appends, and says what an fsync or a close said. */
const PROGRAM = `import errno
def tried(*runs):
    said = []
    for run in runs:
        try: run(); said.append('done')
        except OSError as e: said.append(errno.errorcode[e.errno])
    say(*said)
def fill(word):
    os.pwrite(fd, word * 1000, ${MIB}); mapping.store(2 * ${MIB}, word * 10)
    os.ftruncate(fd, 3 * ${MIB}); os.ftruncate(fd, 3 * ${MIB} + len(word)); os.pwrite(fd, word, 3 * ${MIB})
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 4 * ${MIB})
mapping = Mapping(fd, 3 * ${MIB})
while True:
    word = hear()
    if word == 'close': mapping.close(); tried(lambda: os.close(fd))
    elif word == 'hash': say(hashlib.sha256(os.pread(fd, 5 * ${MIB}, 0)).hexdigest())
    elif word == '': break
    else: tried(lambda: fill(word.encode()), lambda: os.fsync(fd))
`;

/** An open for writing: says its error. */
const REFUSED = `
try: open(path, 'r+'); say('open')
except OSError as e: say(e.errno)`;
/** Of the writes, and of the fsync. */
const DONE = 'done done';

interface Written {
  readonly mount: MountedVolume;
  readonly other: OpenVolume;
  /** It writes this, syncs it, and hears that. */
  readonly writes: (word: string) => Promise<string>;
  readonly expectCommitted: () => Promise<void>;
}

async function written(writeback: boolean): Promise<Written> {
  const volume = await testVolume();
  const other = await openTestVolume(volume, 'other');
  const mount = await mountTestVolume(volume, { passthrough: 'full', writeback });
  const program = converse(mount, 'f', PROGRAM);
  const writes = (word: string): Promise<string> => {
    program.say(word);
    return program.hear();
  };
  expect(await writes('first')).toBe(DONE);
  expect((await volumeStats(mount)).liveFiles).toBe(1);
  return {
    ...{ mount, other, writes },
    async expectCommitted() {
      expect(await writes('hash')).toBe(sha(await readElsewhere(other, 'f')));
    },
  };
}

function inCache(mount: MountedVolume, pattern: RegExp): string[] {
  const cache = join(mount.base, 'cache');
  const names = readdirSync(cache, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => pattern.test(name)).map((name) => join(cache, name));
}

/** All whole files of the mount. */
function removeWhole(mount: MountedVolume): void {
  for (const folder of inCache(mount, /\/whole$/)) rmSync(folder, { recursive: true, maxRetries: 20 });
}

async function pidsOf(mount: MountedVolume): Promise<{ readonly worker: number; readonly supervisor: number }> {
  const { workerPid, supervisorPid } = await mountStats(mount.mountpoint);
  return { worker: Number(workerPid), supervisor: supervisorPid };
}

/** Whole files that the process has open, and that have no name any more. */
function heldBy(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).match(/\/whole\/.* \(deleted\)$/) ?? [];
    } catch {
      return []; // Closed meanwhile.
    }
  });
}

async function expectNothingHeld(mount: MountedVolume): Promise<void> {
  await until('nothing of it is left', async () => {
    const { worker, supervisor } = await pidsOf(mount);
    return (await volumeStats(mount)).liveFiles === 0 && [...heldBy(worker), ...heldBy(supervisor)].length === 0;
  });
}

describe.skipIf(cannotMount() || cannotPassThrough())('a backing file that is removed under the kernel', () => {
  test.each([false, true])(
    'is committed from what is open, at fsync and close, also by a worker that is started anew, and goes with the last close (writeback: %s)',
    async (writeback) => {
      const { mount, writes, expectCommitted } = await written(writeback);
      removeWhole(mount);
      expect(await writes('second')).toBe(DONE);
      await expectCommitted();
      const { supervisor } = await pidsOf(mount);
      await until('the supervisor holds it', () => heldBy(supervisor).length === 1);
      removeWhole(mount);
      await until('its record is put back', () => inCache(mount, /\/whole\/.*\.base$/).length === 1);
      await killWorker(mount);
      expect(await writes('third')).toBe(DONE);
      await expectCommitted();
      await killWorker(mount);
      expect(await writes('fourth')).toBe(DONE);
      await expectCommitted();
      expect(await writes('close')).toBe('done');
      await expectNothingHeld(mount);
      expect(readFileSync(mount.logPath, 'utf8')).toMatch(
        /removed from the cache directory .*: inode \d+ \(.*whole.* unmount first/,
      );
      expect(await python(mount, 'f', `say(open(path, 'rb').read()[-6:])`)).toBe(`b'fourth'`);
    },
  );

  test('and of which nobody had heard when the worker was killed is EIO at fsync and close until the last one, and the log names it', async () => {
    const { mount, writes, other } = await written(false);
    const committed = sha(await readElsewhere(other, 'f'));
    const { worker } = await pidsOf(mount);
    process.kill(worker, 'SIGSTOP');
    removeWhole(mount);
    await killWorker(mount);
    expect(await writes('second')).toBe('EIO EIO');
    expect(await writes('third')).toBe('EIO EIO');
    expect(await python(mount, 'f', REFUSED)).toBe('5');
    expect(readFileSync(mount.logPath, 'utf8')).toMatch(/inode \d+ .*is lost.*unmount first/);
    expect(sha(await readElsewhere(other, 'f'))).toBe(committed);
    expect(await writes('close')).toBe('EIO');
    expect(await python(mount, 'f', `open(path, 'r+').write('again'); say(open(path, 'rb').read(5))`)).toBe(`b'again'`);
    await expectNothingHeld(mount);
  });

  test('and that others only read is read by who comes through the daemon, and written to when they have closed it, also behind a kill of the worker', async () => {
    const { volume, content, other } = await volumeWithFile(testVolume, 'f', MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    await makeWhole(mount, 'f');
    const reader = converse(
      mount,
      'f',
      `held = os.open(path, os.O_RDONLY); say('open'); hear(); os.close(held); say('closed'); hear()`,
    );
    expect(await reader.hear()).toBe('open');
    expect((await volumeStats(mount)).passthroughOpens).toBe(1);
    removeWhole(mount);
    await killWorker(mount);
    expect(await python(mount, 'f', HASH)).toBe(sha(content));
    expect(await python(mount, 'f', REFUSED)).toBe('5');
    expect(readFileSync(mount.logPath, 'utf8')).toMatch(
      /inode \d+ \(.*was removed from the cache directory .* unmount first/,
    );
    reader.say('close');
    expect(await reader.hear()).toBe('closed');
    await python(mount, 'f', `os.pwrite(os.open(path, os.O_WRONLY), b'now', 0)`);
    expect((await readElsewhere(other, 'f')).subarray(0, 3).toString()).toBe('now');
  });
});
