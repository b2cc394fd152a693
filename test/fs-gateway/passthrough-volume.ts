/** What the passthrough tests share: a volume with a file made by another client, mounted, and Python programs that look into it. */
import { createHash, randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { MountedVolume, NewVolume, TestVolume } from '../support/fs-volume.ts';
import { run, start, until } from '../support/mount-guard.ts';
import type { Running } from '../support/mount-guard.ts';
import { BESIDE_MS } from '../support/hang.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;
const O_WRONLY_APPEND = 0o2001;

export const sha = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
/** Says the hash of the file as a program on the mount reads it. */
export const HASH = `say(hashlib.sha256(open(path, 'rb').read()).hexdigest())`;

export interface VolumeStats {
  readonly passthrough: string;
  readonly passthroughOpens: number;
  readonly wholeBytes: number;
  readonly liveFiles: number;
  readonly filling: number;
}

export async function volumeStats({ mountpoint }: MountedVolume): Promise<VolumeStats> {
  let found: VolumeStats | undefined;
  await until('the worker answers', async () => {
    const stats = await mountStats(mountpoint);
    found = (stats['worker'] as { readonly volume?: VolumeStats } | undefined)?.volume;
    return found !== undefined;
  });
  if (found === undefined) throw new Error('unreachable');
  return found;
}

/** kill -9; resolves when another worker serves. */
export async function killWorker(mount: MountedVolume): Promise<void> {
  const { workerPid, restarts } = await mountStats(mount.mountpoint);
  process.kill(Number(workerPid), 'SIGKILL');
  await until('another worker serves', async () => {
    const stats = await mountStats(mount.mountpoint);
    return stats['restarts'] !== restarts && stats['state'] === 'serving';
  });
}

/** A file of random bytes in the root, written by a client that is not the mount. */
export async function volumeWithFile(
  newVolume: NewVolume,
  name: string,
  bytes: number,
): Promise<{ readonly volume: TestVolume; readonly content: Buffer; readonly other: OpenVolume }> {
  const volume = await newVolume();
  const other = await openTestVolume(volume, 'other');
  const content = randomBytes(bytes);
  await writeElsewhere(other, name, content);
  return { volume, content, other };
}

/** Writes and closes it as another node would. */
export async function writeElsewhere(other: OpenVolume, name: string, data: Buffer, offset = 0): Promise<void> {
  const { operations } = other;
  const { entry, open } = await operations.create(caller(), 1n, name, 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = entry.attributes;
  for (let at = 0; at < data.length; at += 2 ** 20) {
    const part = data.subarray(at, at + 2 ** 20);
    await operations.write(caller(), ino, open.handle, BigInt(offset + at), part, O_RDWR, false);
  }
  await operations.flush(caller(), ino, open.handle, 0n);
  await operations.release(caller(), ino, open.handle, undefined);
}

/** Appends with O_APPEND as another node would, and closes. */
export async function appendElsewhere({ operations }: OpenVolume, name: string, data: string): Promise<void> {
  const found = await operations.lookup(caller(), 1n, name);
  if (!('attributes' in found)) throw new Error(`${name} is absent`);
  const { ino, size } = found.attributes;
  const { handle } = await operations.open(caller(), ino, O_WRONLY_APPEND);
  await operations.write(caller(), ino, handle, size, Buffer.from(data), O_WRONLY_APPEND, false);
  await operations.flush(caller(), ino, handle, 0n);
  await operations.release(caller(), ino, handle, undefined);
}

/** The committed content, as another node reads it. */
export async function readElsewhere(other: OpenVolume, name: string): Promise<Buffer> {
  const { operations } = other;
  const found = await operations.lookup(caller(), 1n, name);
  if (!('attributes' in found)) throw new Error(`${name} is absent`);
  const { ino, size } = found.attributes;
  const { handle } = await operations.open(caller(), ino, 0);
  const parts: Buffer[] = [];
  for (let at = 0n; at < size; at += 2n ** 20n) {
    parts.push(Buffer.from(await operations.read(caller(), ino, handle, at, 2 ** 20, 0)));
  }
  await operations.release(caller(), ino, handle, undefined);
  return Buffer.concat(parts);
}

/** Reads the file through the mount until it is whole on this node. */
export async function makeWhole(mount: MountedVolume, name: string): Promise<void> {
  const before = (await volumeStats(mount)).wholeBytes;
  expect((await run('cat', [`${mount.mountpoint}/${name}`])).status).toBe(0);
  await until(`${name} is whole`, async () => {
    const stats = await volumeStats(mount);
    return stats.wholeBytes > before && stats.filling === 0;
  });
}

const PRELUDE = `import ctypes, mmap, os, sys, hashlib, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
class Mapping:
    # Python's own mmap keeps a copy of the descriptor.
    def __init__(self, fd, size):
        self.size = size
        self.at = libc.mmap(None, ctypes.c_size_t(size), 3, 1, fd, ctypes.c_long(0))
        assert self.at != 2**64 - 1, os.strerror(ctypes.get_errno())
    def store(self, offset, data): ctypes.memmove(self.at + offset, data, len(data))
    def close(self): assert libc.munmap(ctypes.c_void_p(self.at), ctypes.c_size_t(self.size)) == 0
path = sys.argv[1]
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
`;

/** A Python program with `path` (of the file), `say`, `hear` and `Mapping`. */
export async function python(
  mount: MountedVolume,
  name: string,
  script: string,
  args: readonly string[] = [],
): Promise<string> {
  const { status, stdout, stderr } = await run('python3', [
    '-c',
    PRELUDE + script,
    `${mount.mountpoint}/${name}`,
    ...args,
  ]);
  expect(`${stderr}${status}`).toBe('0');
  return stdout.trim();
}

export interface Conversation {
  readonly running: Running;
  /** The next line that the program says. */
  hear(): Promise<string>;
  say(word: string): void;
}

/** The same program, talked with. */
export function converse(mount: MountedVolume, name: string, script: string): Conversation {
  const running = start('python3', ['-c', PRELUDE + script, `${mount.mountpoint}/${name}`], BESIDE_MS, 'pipe');
  let text = '';
  let wake = (): void => undefined;
  running.child.stdout?.on('data', (chunk: string) => {
    text += chunk;
    wake();
  });
  return {
    running,
    async hear() {
      while (!text.includes('\n')) {
        const ended = running.finished.then(({ stderr }) => {
          if (!text.includes('\n')) throw new Error(`the program ended: ${stderr}`);
        });
        await Promise.race([new Promise<void>((resolve) => (wake = resolve)), ended]);
      }
      const end = text.indexOf('\n');
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      return line;
    },
    say: (word) => running.child.stdin?.write(`${word}\n`),
  };
}

/** Its committed size; -1 when there is no such name. */
export async function sizeElsewhere({ operations }: OpenVolume, name: string): Promise<number> {
  const found = await operations.lookup(caller(), 1n, name);
  return 'attributes' in found ? Number(found.attributes.size) : -1;
}
