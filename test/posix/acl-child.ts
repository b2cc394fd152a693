/**
 * What a file system does with access control lists, as observations: `node acl-child.ts DIR` prints them as one line of JSON. Run on a
 * local disk, the oracle, and on a mount. Needs root: it looks as other users.
 */
import { chmodSync, closeSync, mkdirSync, openSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';

const libc = koffi.load('libc.so.6');
const setxattr = libc.func(
  'int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)',
);
const getxattr = libc.func('long getxattr(const char *path, const char *name, _Out_ uint8_t *value, size_t size)');
const listxattr = libc.func('long listxattr(const char *path, _Out_ uint8_t *list, size_t size)');
const removexattr = libc.func('int removexattr(const char *path, const char *name)');

const ACCESS = 'system.posix_acl_access';
const DEFAULT = 'system.posix_acl_default';
const TAGS: Readonly<Record<string, number>> = { u: 1, 'u+': 2, g: 4, 'g+': 8, m: 16, o: 32 };
const ANY_ID = 0xffffffff;

/** `u::rwx,u:7:r--,g::r-x,m::rwx,o::---` as the kernel takes it. */
function encode(text: string): Buffer {
  const entries = text === '' ? [] : text.split(',').map((entry) => entry.split(':'));
  const value = Buffer.alloc(4 + 8 * entries.length);
  value.writeUInt32LE(2, 0);
  for (const [index, [tag = '', id = '', rwx = '']] of entries.entries()) {
    const permissions = (rwx[0] === 'r' ? 4 : 0) + (rwx[1] === 'w' ? 2 : 0) + (rwx[2] === 'x' ? 1 : 0);
    value.writeUInt16LE(TAGS[id === '' ? tag : `${tag}+`] ?? 0, 4 + 8 * index);
    value.writeUInt16LE(permissions, 6 + 8 * index);
    value.writeUInt32LE(id === '' ? ANY_ID : Number(id), 8 + 8 * index);
  }
  return value;
}

function decode(value: Buffer): string {
  const names = Object.fromEntries(Object.entries(TAGS).map(([name, tag]) => [tag, name.charAt(0)]));
  const entries: string[] = [];
  for (let at = 4; at < value.length; at += 8) {
    const [tag, permissions, id] = [value.readUInt16LE(at), value.readUInt16LE(at + 2), value.readUInt32LE(at + 4)];
    const rwx = ['r', 'w', 'x'].map((letter, bit) => ((permissions & (4 >> bit)) === 0 ? '-' : letter)).join('');
    entries.push(`${names[tag] ?? '?'}:${id === ANY_ID ? '' : id}:${rwx}`);
  }
  return entries.join(',');
}

/** 'ok', or that it failed. */
function set(path: string, name: string, value: Buffer): string {
  return setxattr(path, name, value, value.length, 0) === 0 ? 'ok' : 'refused';
}

function get(path: string, name = ACCESS): string {
  const value = Buffer.alloc(4096);
  const bytes = Number(getxattr(path, name, value, value.length));
  return bytes < 0 ? 'none' : decode(value.subarray(0, bytes));
}

function list(path: string): string[] {
  const value = Buffer.alloc(4096);
  const bytes = Number(listxattr(path, value, value.length));
  const names = value.toString('latin1', 0, Math.max(0, bytes)).split('\0');
  return names.filter((name) => name.startsWith('system.posix_acl')).sort();
}

function mode(path: string): string {
  return (statSync(path).mode & 0o7777).toString(8);
}

/** What a user may do with a file. */
function asUser(uid: number, gid: number, groups: number[], path: string): string {
  process.setgroups?.(groups);
  process.setegid?.(gid);
  process.seteuid?.(uid);
  const may = (flags: string): boolean => {
    try {
      closeSync(openSync(path, flags));
      return true;
    } catch {
      return false;
    }
  };
  const result = `${may('r') ? 'r' : '-'}${may('r+') ? 'w' : '-'}`;
  process.seteuid?.(0);
  process.setegid?.(0);
  process.setgroups?.([0]);
  return result;
}

function observe(dir: string): Record<string, unknown> {
  const seen: Record<string, unknown> = {};
  chmodSync(dir, 0o755);
  const file = join(dir, 'file');
  writeFileSync(file, 'content', { mode: 0o640 });
  seen['no list'] = [get(file), mode(file), list(file)];
  seen['set'] = set(file, ACCESS, encode('u::rw-,u:1001:rw-,u:1002:r--,g::---,g:2001:r--,m::rw-,o::---'));
  seen['the mask is the group of the mode'] = [get(file), mode(file), list(file)];
  const users = (path: string): string[] => [
    asUser(1001, 3000, [], path),
    asUser(1002, 3000, [], path),
    asUser(1003, 2001, [], path),
    asUser(1003, 3000, [2001], path),
    asUser(1003, 3000, [], path),
  ];
  seen['users'] = users(file);
  chmodSync(file, 0o640);
  seen['chmod sets the mask'] = [get(file), mode(file), users(file)];
  chmodSync(file, 0o604);
  seen['chmod takes it away'] = [get(file), mode(file), users(file)];
  seen['a list that is a mode'] = [
    set(file, ACCESS, encode('u::rwx,g::r-x,o::--x')),
    get(file),
    mode(file),
    list(file),
  ];
  set(file, ACCESS, encode('u::rw-,u:1001:rwx,g::r--,m::rwx,o::r--'));
  seen['removed'] = [removexattr(file, ACCESS), get(file), mode(file)];
  seen['no group, no mask, wrong order, wrong tag, short'] = [
    set(file, ACCESS, encode('u::rwx,o::---')),
    set(file, ACCESS, encode('u::rwx,u:1:rwx,g::---,o::---')),
    set(file, ACCESS, encode('o::---,g::---,u::rwx')),
    set(file, ACCESS, encode('u::rwx,x::---,g::---,o::---')),
    set(file, ACCESS, Buffer.from([2, 0, 0])),
  ];
  seen['default of a file'] = set(file, DEFAULT, encode('u::rwx,g::---,o::---'));

  const parent = join(dir, 'parent');
  mkdirSync(parent, { mode: 0o755 });
  const defaults = 'u::rwx,u:1001:rwx,g::r-x,g:2001:rwx,m::rwx,o::---';
  seen['default'] = [set(parent, DEFAULT, encode(defaults)), get(parent, DEFAULT), get(parent), mode(parent)];
  process.umask(0o077);
  for (const [name, asked] of [
    ['a', 0o666],
    ['b', 0o600],
    ['c', 0o777],
  ] as const) {
    closeSync(openSync(join(parent, name), 'w', asked));
    seen[`file asked as ${asked.toString(8)}`] = [get(join(parent, name)), mode(join(parent, name))];
  }
  writeFileSync(join(parent, 'a'), 'content');
  seen['users of what inherited'] = users(join(parent, 'a'));
  mkdirSync(join(parent, 'sub'), { mode: 0o750 });
  seen['directory'] = [get(join(parent, 'sub')), get(join(parent, 'sub'), DEFAULT), mode(join(parent, 'sub'))];
  mkdirSync(join(parent, 'sub/deep'), { mode: 0o777 });
  seen['deep'] = [
    get(join(parent, 'sub/deep')),
    get(join(parent, 'sub/deep'), DEFAULT),
    mode(join(parent, 'sub/deep')),
  ];
  symlinkSync('a', join(parent, 'link'));
  seen['through a symbolic link'] = readFileSync(join(parent, 'link'), 'utf8');
  set(parent, DEFAULT, encode('u::rwx,g::r-x,o::r-x'));
  closeSync(openSync(join(parent, 'plain'), 'w', 0o666));
  seen['a default that is a mode, instead of the umask'] = [get(join(parent, 'plain')), mode(join(parent, 'plain'))];
  seen['default removed'] = [removexattr(parent, DEFAULT), get(parent, DEFAULT)];
  closeSync(openSync(join(parent, 'masked'), 'w', 0o666));
  seen['the umask again'] = [get(join(parent, 'masked')), mode(join(parent, 'masked'))];
  return seen;
}

process.stdout.write(JSON.stringify(observe(process.argv[2] ?? '')));
