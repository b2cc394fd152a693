/** Close-to-open over a link on which every message takes its time: whoever opens behind a close of another mount sees it at once, not once the feed has told. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import type { OpenResult } from '../../fs-gateway/vfs/operations.ts';
import { caller, mountTestVolume, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { startRedis } from '../support/redis.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { cannotMount, missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';
import { lookUp, writeFile } from '../tools/volume-files.ts';
import { python } from './passthrough-volume.ts';

const LATE_MS = 15;

interface Far {
  readonly near: TestVolume;
  readonly far: TestVolume;
  readonly proxy: TcpProxy;
}

/** One volume, by a short way and by a long one. */
async function twoWays(options: Readonly<Record<string, string>> = {}): Promise<Far> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const proxy = await TcpProxy.start(() => redis.port);
  onTestFinished(() => proxy.close());
  const base = tempDir('volume');
  const near = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: near.metaUrl, storeUrl: `dir:${near.storeDir}`, options });
  return { near, far: { ...near, metaUrl: `redis://127.0.0.1:${proxy.port}/0` }, proxy };
}

/** Says what was read as it was before, by a program that writes on one mount and reads on the other. */
const WRITE_AND_READ = `other = sys.argv[2]
stale = []
def write(path, data):
    with open(path, 'wb') as f: f.write(data)
def read(path):
    with open(path, 'rb') as f: return f.read()
def check(what, name, data):
    if read(other + '/' + name) != data: stale.append(what)
for i in range(3):
    # Other sizes each time: the kernel must not cut what it reads at the size that it knows.
    small, large = b'%d' % i * (i + 1), bytes([65 + i]) * (100000 + 5000 * (2 - i))
    write(path + 'small', small); check('small', 'small', small)
    write(path + 'large', large); check('large', 'large', large)
    write(path + 'new', small); os.rename(path + 'new', path + 'replaced'); check('replaced', 'replaced', small)
    os.truncate(path + 'large', 10 + i); check('cut', 'large', large[:10 + i])
    fd = os.open(path + 'large', os.O_WRONLY | os.O_APPEND); os.write(fd, small); os.fsync(fd)
    check('appended', 'large', large[:10 + i] + small); os.close(fd)
say(stale)`;

test.skipIf(missing('redis-server') || cannotMount()).for(['off', 'full'] as const)(
  'what was closed or synced on one mount is what the next open on another reads (passthrough=%s)',
  async (passthrough, context) => {
    context.skip(passthrough !== 'off' && cannotPassThrough(), 'no passthrough here');
    const { near, far, proxy } = await twoWays();
    const writer = await mountTestVolume(near, { passthrough });
    const reader = await mountTestVolume(far, { passthrough });
    proxy.delayMs = LATE_MS;
    expect(await python(writer, '', WRITE_AND_READ, [reader.mountpoint])).toBe('[]');
  },
);

/** Says by which change of names a file was opened that no longer had the name, by a program that changes them on one mount and opens on the other. */
const MOVE_AND_READ = `import ctypes
libc, AT_FDCWD, RENAME_EXCHANGE = ctypes.CDLL(None, use_errno=True), -100, 2
other = sys.argv[2]
wrong = []
def write(name, data):
    with open(path + name, 'w') as f: f.write(data)
def read(name):
    with open(other + '/' + name) as f: return f.read()
def move(a, b): os.rename(path + a, path + b)
def exchange(a, b):
    if libc.renameat2(AT_FDCWD, (path + a).encode(), AT_FDCWD, (path + b).encode(), RENAME_EXCHANGE): raise OSError(ctypes.get_errno(), 'renameat2')
def replaced(): write('next', 'new'); move('next', 'f')
def replaced_beside_a_link(): os.link(path + 'f', path + 'copy'); write('next', 'new'); move('next', 'f')
def rotated(): move('f', 'f.1'); write('f', 'new')
def made_anew(): os.unlink(path + 'f'); write('f', 'new')
def exchanged(): write('next', 'new'); exchange('next', 'f')
for change in replaced, replaced_beside_a_link, rotated, made_anew, exchanged:
    for i in range(3):
        for name in 'f', 'f.1', 'copy':
            if os.path.lexists(path + name): os.unlink(path + name)
        write('f', 'old')
        # Until the news of that have come: the kernel then believes what it has.
        for _ in range(4): read('f')
        change()
        if read('f') != 'new': wrong.append(change.__name__)
say(wrong)`;

test.skipIf(missing('redis-server') || cannotMount()).for([
  ['off', 'no trash', {}],
  ['read', 'a trash', { trash: '1d' }],
  ['full', 'no trash', {}],
] as const)(
  'an open by a name that leads to another file since a change on another mount opens that one, whichever change it was (passthrough=%s, %s)',
  async ([passthrough, , options], context) => {
    context.skip(passthrough !== 'off' && cannotPassThrough(), 'no passthrough here');
    const { near, far, proxy } = await twoWays(options);
    const [writer, reader] = [
      await mountTestVolume(near, { passthrough }),
      await mountTestVolume(far, { passthrough }),
    ];
    proxy.delayMs = LATE_MS;
    expect(await python(writer, '', MOVE_AND_READ, [reader.mountpoint])).toBe('[]');
  },
);

test('a name that was moved over is looked up anew, also when the news of it are here and have not reached the kernel', async () => {
  const volume = await testVolume();
  const writer = await openTestVolume(volume, 'writer');
  await writeFile(writer, 'count', Buffer.from('old'));
  const heard = Promise.withResolvers<undefined>();
  const reader = await openTestVolume(
    volume,
    'reader',
    [],
    'lake',
    {},
    {
      invalidateInode: () => undefined,
      invalidateEntry(_parent, name) {
        if (name === 'count') heard.resolve(undefined);
      },
      incrementEpoch: () => true,
      settled: () => undefined,
    },
  );
  const { ino } = await lookUp(reader, 1n, 'count');
  await writeFile(writer, 'next', Buffer.from('new'));
  await writer.operations.rename(caller(), 1n, 'next', 1n, 'count', 0);
  await heard.promise;
  // The kernel repeats what it was refused with ESTALE: behind a new look, or, through /proc/self/fd, as it was.
  await expect(openNow(reader, ino)).rejects.toMatchObject({ errno: Errno.ESTALE });
  const reopened = await openNow(reader, ino);
  expect((await reader.operations.read(caller(), ino, reopened.handle, 0n, 5, 0)).toString()).toBe('old');
  await expect(openNow(reader, ino)).rejects.toMatchObject({ errno: Errno.ESTALE });
  const now = await lookUp(reader, 1n, 'count');
  const { handle } = await openNow(reader, now.ino);
  expect((await reader.operations.read(caller(), now.ino, handle, 0n, 5, 0)).toString()).toBe('new');
});

/** One thread replaces a file by rename on one mount, again and again, the other opens it on another mount: what it reads never goes back, and it meets no error. */
const REPLACE_AND_READ = `import threading
other = sys.argv[2]
done = []
def replace():
    for i in range(300):
        with open(path + 'next', 'w') as f: f.write(str(i))
        os.rename(path + 'next', path + 'count')
    done.append(1)
with open(path + 'count', 'w') as f: f.write('0')
thread = threading.Thread(target=replace); thread.start()
last, faults = 0, []
while not done:
    try:
        with open(other + '/count') as f: seen = int(f.read())
        if seen < last: faults.append('%d behind %d' % (seen, last))
        last = seen
    except OSError as e: faults.append(str(e))
thread.join()
with open(other + '/count') as f: say([faults, int(f.read())])`;

test.skipIf(missing('redis-server') || cannotMount())(
  'a file that is replaced all the time on one mount is opened on another without an error',
  async () => {
    const { near, far } = await twoWays();
    const [writer, reader] = [await mountTestVolume(near), await mountTestVolume(far)];
    expect(await python(writer, '', REPLACE_AND_READ, [reader.mountpoint])).toBe('[[], 299]');
  },
);

const openNow = async ({ operations }: OpenVolume, ino: bigint): Promise<OpenResult> =>
  operations.open(caller(), ino, 0);

test('with openCache an open of a known file asks nobody', async () => {
  const open = await openTestVolume(await testVolume(), 'a', [], 'lake', { openCache: true });
  await writeFile(open, 'f', Buffer.from('known'));
  const { ino } = await lookUp(open, 1n, 'f');
  for (const question of ['checkedNode', 'isCurrent'] as const) {
    replaceMethod(VolumeView.prototype, question, () => () => Promise.reject(new Error('it was asked')));
  }
  const { handle } = await open.operations.open(caller(), ino, 0);
  expect((await open.operations.read(caller(), ino, handle, 0n, 5, 0)).toString()).toBe('known');
});
