/**
 * What programs rely on, as functions that take only a directory: run on a local disk (the oracle) and on our mount. Each throws when
 * the file system does not behave. They run in a child process (runner.ts), because a look at a mount may block.
 */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  opendirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

const code = (expected: string) => (error: unknown) =>
  error instanceof Error && 'code' in error && error.code === expected;

export const posixCases: Readonly<Record<string, (dir: string) => void>> = {
  'a file keeps what was written at any offset'(dir) {
    const path = join(dir, 'f');
    const fd = openSync(path, 'w+');
    writeSync(fd, 'hello', 100);
    writeSync(fd, 'world', 3);
    assert.equal(fstatSync(fd).size, 105);
    closeSync(fd);
    assert.equal(readFileSync(path).toString('latin1').replaceAll('\0', '.'), `...world${'.'.repeat(92)}hello`);
  },
  'truncate cuts and grows with zeros'(dir) {
    const path = join(dir, 'f');
    writeFileSync(path, 'x'.repeat(100_000));
    truncateSync(path, 10);
    truncateSync(path, 20);
    assert.equal(readFileSync(path, 'latin1'), 'x'.repeat(10) + '\0'.repeat(10));
  },
  'append goes to the end, whoever else wrote'(dir) {
    const path = join(dir, 'f');
    const [a, b] = [openSync(path, 'a'), openSync(path, 'a')];
    for (let i = 0; i < 50; i++) {
      writeSync(a, 'a');
      writeSync(b, 'b');
    }
    appendFileSync(path, '!');
    assert.equal(readFileSync(path, 'latin1'), `${'ab'.repeat(50)}!`);
    closeSync(a);
    closeSync(b);
  },
  'an unlinked file lives until its last close'(dir) {
    const path = join(dir, 'f');
    const fd = openSync(path, 'w+');
    writeSync(fd, 'before');
    unlinkSync(path);
    assert.equal(existsSync(path), false);
    assert.equal(fstatSync(fd).nlink, 0);
    writeSync(fd, ' after', 6);
    ftruncateSync(fd, 9);
    fsyncSync(fd);
    const buffer = Buffer.alloc(20);
    assert.equal(buffer.toString('latin1', 0, readSync(fd, buffer, 0, 20, 0)), 'before af');
    closeSync(fd);
  },
  'rename replaces a file that is open, and both stay readable'(dir) {
    writeFileSync(join(dir, 'old'), 'old');
    writeFileSync(join(dir, 'new'), 'new');
    const fd = openSync(join(dir, 'old'), 'r');
    renameSync(join(dir, 'new'), join(dir, 'old'));
    assert.equal(readFileSync(join(dir, 'old'), 'latin1'), 'new');
    assert.equal(readFileSync(fd, 'latin1'), 'old');
    closeSync(fd);
    assert.deepEqual(readdirSync(dir), ['old']);
  },
  'rename of directories keeps to the rules'(dir) {
    mkdirSync(join(dir, 'a/b/c'), { recursive: true });
    mkdirSync(join(dir, 'full/x'), { recursive: true });
    mkdirSync(join(dir, 'empty'));
    writeFileSync(join(dir, 'file'), '');
    assert.throws(() => renameSync(join(dir, 'a'), join(dir, 'a/b/c/d')), code('EINVAL'));
    assert.throws(() => renameSync(join(dir, 'a'), join(dir, 'full')), code('ENOTEMPTY'));
    assert.throws(() => renameSync(join(dir, 'a'), join(dir, 'file')), code('ENOTDIR'));
    assert.throws(() => renameSync(join(dir, 'file'), join(dir, 'empty')), code('EISDIR'));
    renameSync(join(dir, 'a'), join(dir, 'empty'));
    assert.equal(statSync(join(dir, 'empty/b/c')).isDirectory(), true);
    assert.equal(statSync(join(dir, 'empty')).nlink, 3);
  },
  'hard links share one inode, its times and its content'(dir) {
    writeFileSync(join(dir, 'a'), 'one');
    linkSync(join(dir, 'a'), join(dir, 'b'));
    appendFileSync(join(dir, 'b'), ' two');
    chmodSync(join(dir, 'b'), 0o640);
    const [a, b] = [statSync(join(dir, 'a')), statSync(join(dir, 'b'))];
    assert.deepEqual([a.ino, a.nlink, a.size, a.mode & 0o777], [b.ino, 2, 7, 0o640]);
    assert.throws(() => linkSync(join(dir, 'a'), join(dir, 'b')), code('EEXIST'));
    unlinkSync(join(dir, 'a'));
    assert.equal(statSync(join(dir, 'b')).nlink, 1);
  },
  'symbolic links keep their bytes, dangle and loop'(dir) {
    symlinkSync('no/such/target', join(dir, 'dangling'));
    symlinkSync('loop', join(dir, 'loop'));
    assert.equal(readlinkSync(join(dir, 'dangling')), 'no/such/target');
    assert.equal(lstatSync(join(dir, 'dangling')).size, 14);
    assert.throws(() => statSync(join(dir, 'dangling')), code('ENOENT'));
    assert.throws(() => statSync(join(dir, 'loop')), code('ELOOP'));
  },
  'directories count their subdirectories and refuse to go while they are not empty'(dir) {
    for (const name of ['a', 'b', 'c']) mkdirSync(join(dir, 'd', name), { recursive: true });
    assert.equal(statSync(join(dir, 'd')).nlink, 5);
    assert.throws(() => rmdirSync(join(dir, 'd')), code('ENOTEMPTY'));
    for (const name of ['a', 'b', 'c']) rmdirSync(join(dir, 'd', name));
    assert.equal(statSync(join(dir, 'd')).nlink, 2);
    rmdirSync(join(dir, 'd'));
    assert.throws(() => rmdirSync(join(dir, 'd')), code('ENOENT'));
  },
  'a directory that is open is seen without a name when it is removed or replaced'(dir) {
    for (const name of ['removed', 'replaced', 'by']) mkdirSync(join(dir, name), { mode: 0o750 });
    const open = ['removed', 'replaced'].map((name) => openSync(join(dir, name), 'r'));
    rmdirSync(join(dir, 'removed'));
    renameSync(join(dir, 'by'), join(dir, 'replaced'));
    for (const fd of open) {
      const { nlink, mode } = fstatSync(fd);
      assert.deepEqual([nlink, mode & 0o7777], [0, 0o750]);
      closeSync(fd);
    }
  },
  'a listing gives each of many names once, while others come and go'(dir) {
    for (let i = 0; i < 2500; i++) writeFileSync(join(dir, `stays-${i}`), '');
    const open = opendirSync(dir, { bufferSize: 50 });
    const seen: string[] = [];
    for (let entry = open.readSync(); entry !== null; entry = open.readSync()) {
      seen.push(entry.name);
      if (seen.length % 100 === 0) writeFileSync(join(dir, `comes-${seen.length}`), '');
    }
    open.closeSync();
    const stays = seen.filter((name) => name.startsWith('stays-'));
    assert.equal(new Set(stays).size, 2500);
    assert.equal(stays.length, 2500);
    rmSync(dir, { recursive: true });
    mkdirSync(dir);
    assert.deepEqual(readdirSync(dir), []);
  },
  'times are set, kept over writes of others, and moved by changes'(dir) {
    const path = join(dir, 'f');
    writeFileSync(path, 'x');
    utimesSync(path, 1_000_000, 2_000_000);
    const set = statSync(path);
    assert.deepEqual([set.atimeMs, set.mtimeMs], [1e9, 2e9]);
    assert.ok(set.ctimeMs > 1e12);
    const fd = openSync(path, 'r+');
    writeSync(fd, 'y');
    utimesSync(path, 3_000_000, 3_000_000);
    closeSync(fd);
    assert.equal(statSync(path).mtimeMs, 3e9);
    const before = statSync(dir).mtimeMs;
    utimesSync(dir, 1, 1);
    assert.equal(statSync(dir).mtimeMs, 1000);
    writeFileSync(join(dir, 'g'), '');
    assert.ok(statSync(dir).mtimeMs >= before);
  },
  'names are bytes, up to 255 of them'(dir) {
    const name = Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0xfe, 0x41])]);
    writeFileSync(name, 'bytes');
    assert.deepEqual(readdirSync(dir, { encoding: 'buffer' }), [Buffer.from([0xff, 0xfe, 0x41])]);
    assert.equal(readFileSync(name, 'latin1'), 'bytes');
    writeFileSync(join(dir, 'n'.repeat(255)), '');
    assert.throws(() => writeFileSync(join(dir, 'n'.repeat(256)), ''), code('ENAMETOOLONG'));
  },
  'a file is refused what its type or its opening does not allow'(dir) {
    writeFileSync(join(dir, 'f'), '');
    assert.throws(() => readdirSync(join(dir, 'f')), code('ENOTDIR'));
    assert.throws(() => writeFileSync(dir, ''), code('EISDIR'));
    assert.throws(() => openSync(join(dir, 'f'), 'wx'), code('EEXIST'));
    assert.throws(() => mkdirSync(join(dir, 'f')), code('EEXIST'));
    assert.throws(() => openSync(join(dir, 'f/below'), 'r'), code('ENOTDIR'));
    const fd = openSync(join(dir, 'f'), 'r');
    assert.throws(() => writeSync(fd, 'x'), code('EBADF'));
    closeSync(fd);
  },
};
