/** `-o passthrough=read`: each rule of docs/decisions/0021 by its name. */
import { expect, test } from 'vitest';
import { mountTestVolume } from '../support/fs-volume.ts';
import type { NewVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import {
  HASH,
  appendElsewhere,
  converse,
  killWorker,
  makeWhole,
  python,
  readElsewhere,
  sha,
  volumeStats,
  volumeWithFile,
  writeElsewhere,
} from './passthrough-volume.ts';

const MIB = 2 ** 20;

/** On volumes of any engine and store. */
export function passthroughReadCases(newVolume: NewVolume): void {
  test('a file that was read is whole on the node, and its next open is served by the kernel', async () => {
    const { volume, content } = await volumeWithFile(newVolume, 'f', 3 * MIB + 12_345);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const before = await volumeStats(mount);
    expect(await python(mount, 'f', HASH)).toBe(sha(content));
    const after = await volumeStats(mount);
    expect(after).toMatchObject({ passthrough: 'read', passthroughOpens: before.passthroughOpens + 1, liveFiles: 0 });
  });

  test('a plain open beside passthrough would be EIO: writers, appenders and readers of one inode share its id', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const seen = await python(
      mount,
      'f',
      `first = open(path, 'rb', buffering=0)
write = os.open(path, os.O_RDWR)
append = os.open(path, os.O_WRONLY | os.O_APPEND)
os.pwrite(write, b'WRITTEN', 1000)
assert os.pread(first.fileno(), 7, 1000) == b'WRITTEN'
os.write(append, b'APPENDED')
assert os.pread(first.fileno(), 100, ${MIB}) == b'APPENDED', os.pread(first.fileno(), 100, ${MIB})
assert os.fstat(write).st_size == ${MIB} + 8 == os.stat(path).st_size
m = mmap.mmap(write, 0)
assert m[1000:1007] == b'WRITTEN'
m[2000:2006] = b'MAPPED'
assert os.pread(first.fileno(), 6, 2000) == b'MAPPED'
os.ftruncate(write, ${MIB} + 4)
assert os.fstat(first.fileno()).st_size == ${MIB} + 4
late = open(path, 'rb').read()
os.fsync(write)
os.close(append); os.close(write); m.close(); first.close()
say(hashlib.sha256(late).hexdigest())`,
    );
    const expected = Buffer.concat([content, Buffer.from('APPE')]);
    expected.write('WRITTEN', 1000);
    expected.write('MAPPED', 2000);
    expect(seen).toBe(sha(expected));
    await until('it is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    await until('the file is complete again', async () => (await volumeStats(mount)).liveFiles === 0);
    expect(await python(mount, 'f', HASH)).toBe(sha(expected));
  });

  test('the end of writing is not close: a mapping that outlives it is committed, and the file is not final before', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', 300_000);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `reader = os.open(path, os.O_RDONLY); fd = os.open(path, os.O_RDWR)
m = Mapping(fd, 300000)
m.store(10, b'one')
os.close(fd); os.close(reader)
say('closed'); hear()
m.store(200000, b'two')
say('stored'); hear()
m.close(); say('unmapped'); hear()`,
    );
    expect(await program.hear()).toBe('closed');
    const first = Buffer.from(content);
    first.write('one', 10);
    await until('what close committed is heard of', async () => sha(await readElsewhere(other, 'f')) === sha(first));
    expect((await volumeStats(mount)).liveFiles).toBe(1);
    program.say('go on');
    expect(await program.hear()).toBe('stored');
    const second = Buffer.from(first);
    second.write('two', 200_000);
    await until('the store is committed', async () => sha(await readElsewhere(other, 'f')) === sha(second));
    // It stays live while it is mapped: whoever opens it has the same bytes.
    expect((await volumeStats(mount)).liveFiles).toBe(1);
    program.say('go on');
    expect(await program.hear()).toBe('unmapped');
    await until('the file is complete', async () => (await volumeStats(mount)).liveFiles === 0);
    program.say('end');
  });

  test('backing ids outlive the worker: killed under readers, no program sees an error and new opens join', async () => {
    const { volume, content } = await volumeWithFile(newVolume, 'f', 4 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `held = os.open(path, os.O_RDONLY); m = mmap.mmap(held, 0, prot=mmap.PROT_READ)
while True:
    for part in (os.pread(held, ${5 * MIB}, 0), open(path, 'rb').read(), m[:]):
        say(hashlib.sha256(part).hexdigest())
    if hear() == 'end': break`,
    );
    for (let round = 0; round < 3; round++) {
      for (let part = 0; part < 3; part++) expect(await program.hear()).toBe(sha(content));
      await killWorker(mount);
      program.say(round === 2 ? 'end' : 'again');
    }
    expect(await program.running.finished).toMatchObject({ status: 0, stderr: '' });
    expect(await python(mount, 'f', HASH)).toBe(sha(content));
  });

  test('a writer beside readers loses nothing when the worker is killed', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `reader = os.open(path, os.O_RDONLY); fd = os.open(path, os.O_RDWR); m = mmap.mmap(fd, 0)
os.pwrite(fd, b'before', 0); m[5000:5006] = b'mapped'; say('written'); hear()
os.pwrite(fd, b'after!', 100); os.fsync(fd); say('synced'); hear()`,
    );
    expect(await program.hear()).toBe('written');
    await killWorker(mount);
    program.say('go on');
    expect(await program.hear()).toBe('synced');
    const expected = Buffer.from(content);
    expected.write('before', 0);
    expected.write('mapped', 5000);
    expected.write('after!', 100);
    await until('it is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    program.say('end');
  });

  test('a change by another node reaches handles that are open, and no open returns before its content is there', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', 20 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `held = os.open(path, os.O_RDONLY)
say(hashlib.sha256(os.pread(held, ${30 * MIB}, 0)).hexdigest())
while hear() == 'new':
    say(hashlib.sha256(open(path, 'rb').read()).hexdigest())
    say(hashlib.sha256(os.pread(held, ${30 * MIB}, 0)).hexdigest())`,
    );
    expect(await program.hear()).toBe(sha(content));
    await writeElsewhere(other, 'f', Buffer.from('elsewhere'), 9 * MIB);
    const expected = Buffer.from(content);
    expected.write('elsewhere', 9 * MIB);
    // The news comes within a poll of the engine.
    await until('the change is seen', async () => {
      program.say('new');
      const [opened, held] = [await program.hear(), await program.hear()];
      if (opened === sha(expected)) expect(held).toBe(opened);
      return opened === sha(expected);
    });
    program.say('end');
  });

  test('two writers of one block: both see both, and both are committed', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `reader = os.open(path, os.O_RDONLY); fd = os.open(path, os.O_RDWR); m = mmap.mmap(fd, 0)
m[10:15] = b'local'; say('stored'); hear()
while os.pread(reader, 6, 100) != b'remote' or m[100:106] != b'remote': time.sleep(0.01)
assert os.pread(fd, 5, 10) == b'local'
os.fsync(fd); say('synced'); hear()`,
    );
    expect(await program.hear()).toBe('stored');
    await writeElsewhere(other, 'f', Buffer.from('remote'), 100);
    program.say('go on');
    expect(await program.hear()).toBe('synced');
    const expected = Buffer.from(content);
    expected.write('local', 10);
    expected.write('remote', 100);
    await until('it is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    program.say('end');
    // When nobody has it open any more, this node has both too.
    await until('both are here', async () => (await python(mount, 'f', HASH)) === sha(expected));
  });

  test('appends of two nodes to a file that is live here are all there, in one order', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', 100_000);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const program = converse(
      mount,
      'f',
      `reader = os.open(path, os.O_RDONLY); fd = os.open(path, os.O_WRONLY | os.O_APPEND)
os.write(fd, b'<here 1>'); say('appended'); hear()
while os.fstat(reader).st_size != 100016: time.sleep(0.01)
os.write(fd, b'<here 2>'); os.fsync(fd); say(os.pread(reader, 100, 100000).decode()); hear()`,
    );
    expect(await program.hear()).toBe('appended');
    await writeElsewhere(other, 'f', Buffer.from('<there1>'), 100_000);
    program.say('go on');
    expect(await program.hear()).toBe('<there1><here 1><here 2>');
    const expected = Buffer.concat([content, Buffer.from('<there1><here 1><here 2>')]);
    await until('it is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    program.say('end');
  });

  test('appends of two nodes at the same time are each there once and whole', async () => {
    const { volume, other } = await volumeWithFile(newVolume, 'f', 100_000);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const RECORDS = 60;
    const here = python(
      mount,
      'f',
      `reader = os.open(path, os.O_RDONLY); fd = os.open(path, os.O_WRONLY | os.O_APPEND)
for i in range(${RECORDS}):
    os.write(fd, b'<here %02d>' % i)
    if i % 7 == 0: os.fsync(fd)
os.close(fd); os.close(reader)`,
    );
    for (let i = 0; i < RECORDS; i++) await appendElsewhere(other, 'f', `<away ${String(i).padStart(2, '0')}>`);
    await here;
    const bytes = 100_000 + 2 * RECORDS * 9;
    await until('all are committed', async () => (await readElsewhere(other, 'f')).length === bytes);
    const records =
      (await readElsewhere(other, 'f'))
        .subarray(100_000)
        .toString()
        .match(/<(here|away) \d\d>/g) ?? [];
    expect(new Set(records).size).toBe(2 * RECORDS);
    await until(
      'the local file has the same',
      async () => (await python(mount, 'f', HASH)) === sha(await readElsewhere(other, 'f')),
    );
  });

  test('truncate by name is seen by who reads it through the kernel', async () => {
    const { volume, content, other } = await volumeWithFile(newVolume, 'f', MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const script = `held = os.open(path, os.O_RDONLY)
os.truncate(path, 70000); assert os.pread(held, 10, 70000) == b''; assert os.fstat(held).st_size == 70000
os.truncate(path, 70010)
assert os.pread(held, 100, 70000) == bytes(10)`;
    await python(mount, 'f', script);
    const expected = Buffer.concat([content.subarray(0, 70_000), Buffer.alloc(10)]);
    await until('it is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
  });
}
