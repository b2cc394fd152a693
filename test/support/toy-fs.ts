/**
 * A toy file system over a real directory, to test the FUSE side without the real one: an inode number is the one of the underlying file,
 * which survives the worker, and every operation is a plain synchronous call of node:fs. No permissions, no locks, no caches.
 *
 * Names that start with `@` are instruments: `@stuck` (reading it waits until it is interrupted), `@wait` (so does looking it up, which leaves its operation id in `@operations`), `@throw` (a bug in an operation),
 * `@slow` (each read answers after a turn of the event loop), `@invalidate NAME` and `@epoch` (looking them up sends the notification),
 * `@create…` (creating it invalidates names of its own directory, then waits for libuv's pool), `@hold` (creating it invalidates a name of its own
 * directory and is never answered by the first worker, which leaves `@held`).
 */
import fs from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../lib/errors.ts';
import { Errno, PosixError } from '../../fs-gateway/vfs/operations.ts';
import type {
  Attributes,
  Caller,
  DirectoryEntry,
  Entry,
  KernelNotifier,
  Operations,
} from '../../fs-gateway/vfs/operations.ts';

const ROOT = 1n;

export interface ToyOptions {
  /** How long the kernel may keep names and attributes. */
  readonly ttlMs?: number;
  readonly notifier?: KernelNotifier;
}

export interface ToyFs extends Operations {
  /** Names handed out and not yet forgotten, by inode. */
  readonly lookups: ReadonlyMap<bigint, bigint>;
  readonly interrupted: number;
}

export function toyFs(root: string, { ttlMs = 0, notifier }: ToyOptions = {}): ToyFs {
  const paths = new Map<bigint, string>([[ROOT, root]]);
  const lookups = new Map<bigint, bigint>();
  const descriptors = new Map<bigint, number>();
  let interrupted = 0;
  const rootIno = fs.lstatSync(root, { bigint: true }).ino;

  function guard<T>(run: () => T): T {
    try {
      return run();
    } catch (error) {
      const code = systemCode(error);
      if (code === undefined || !(code in Errno)) throw error;
      throw new PosixError(Errno[code as keyof typeof Errno], code); // the line above checked the key
    }
  }
  const path = (ino: bigint): string => {
    const known = paths.get(ino) ?? findPath(ino);
    if (known === undefined) throw new PosixError(Errno.ESTALE, `inode ${ino}`);
    return known;
  };
  /** After a worker restart the kernel still uses inode numbers this process never handed out. */
  function findPath(ino: bigint): string | undefined {
    const folders = [root];
    for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
      for (const child of fs.readdirSync(folder, { withFileTypes: true })) {
        const full = join(folder, child.name);
        if (fs.lstatSync(full, { bigint: true }).ino === ino) {
          paths.set(ino, full);
          return full;
        }
        if (child.isDirectory()) folders.push(full);
      }
    }
    return undefined;
  }
  const child = (parent: bigint, name: string): string => join(path(parent), Buffer.from(name, 'latin1').toString());
  function attributes(full: string): Attributes {
    const s = fs.lstatSync(full, { bigint: true });
    return {
      ino: s.ino === rootIno ? ROOT : s.ino,
      generation: 0n,
      mode: Number(s.mode),
      nlink: Number(s.nlink),
      uid: Number(s.uid),
      gid: Number(s.gid),
      rdev: 0,
      size: s.size,
      blocks: s.blocks,
      blockSize: 4096,
      atimeNs: s.atimeNs,
      mtimeNs: s.mtimeNs,
      ctimeNs: s.ctimeNs,
    };
  }
  function entry(full: string): Entry {
    return { attributes: attributes(full), entryTtlMs: ttlMs, attributesTtlMs: ttlMs };
  }
  function look(full: string): Entry {
    const result = entry(full);
    const { ino } = result.attributes;
    paths.set(ino, full);
    lookups.set(ino, (lookups.get(ino) ?? 0n) + 1n);
    return result;
  }
  function descriptor(ino: bigint): number {
    let fd = descriptors.get(ino);
    if (fd === undefined) {
      fd = fs.openSync(path(ino), 'r+');
      descriptors.set(ino, fd);
    }
    return fd;
  }
  const unsupported = (what: string) => (): never => {
    throw new PosixError(Errno.EOPNOTSUPP, what);
  };
  const stuck = (caller: Caller): Promise<never> => {
    const { promise, reject } = Promise.withResolvers<never>();
    caller.signal.addEventListener('abort', () => {
      interrupted++;
      reject(new PosixError(Errno.EINTR, 'interrupted'));
    });
    return promise;
  };

  return {
    lookups,
    get interrupted() {
      return interrupted;
    },
    lookup(caller, parent, name) {
      if (name === '@wait') {
        fs.appendFileSync(join(root, '@operations'), `${caller.operation}\n`);
        return stuck(caller);
      }
      if (name === '@epoch') notifier?.incrementEpoch();
      if (name.startsWith('@invalidate ')) {
        const target = name.slice('@invalidate '.length);
        const { ino } = attributes(child(parent, target));
        notifier?.invalidateEntry(parent, target);
        notifier?.invalidateInode(ino, 0n, 0n);
      }
      return guard(() => look(child(parent, name)));
    },
    forget(ino, count) {
      const left = (lookups.get(ino) ?? 0n) - count;
      if (left > 0n) lookups.set(ino, left);
      else lookups.delete(ino);
    },
    getattr: (_caller, ino) => guard(() => entry(path(ino))),
    setattr: (_caller, ino, changes) =>
      guard(() => {
        const full = path(ino);
        if (changes.size !== undefined) fs.truncateSync(full, Number(changes.size));
        if (changes.mode !== undefined) fs.chmodSync(full, changes.mode & 0o7777);
        return entry(full);
      }),
    readlink: (_caller, ino) => guard(() => fs.readlinkSync(path(ino), 'buffer')),
    mknod: (_caller, parent, name, mode) =>
      guard(() => {
        const full = child(parent, name);
        fs.closeSync(fs.openSync(full, 'wx', mode & 0o7777));
        return look(full);
      }),
    mkdir: (_caller, parent, name, mode, umask) =>
      guard(() => {
        fs.mkdirSync(child(parent, name), mode & ~umask & 0o7777);
        return look(child(parent, name));
      }),
    symlink: (_caller, parent, name, target) =>
      guard(() => {
        fs.symlinkSync(target, child(parent, name));
        return look(child(parent, name));
      }),
    unlink: (_caller, parent, name) => guard(() => fs.unlinkSync(child(parent, name))),
    rmdir: (_caller, parent, name) => guard(() => fs.rmdirSync(child(parent, name))),
    rename: (_caller, parent, name, newParent, newName) =>
      guard(() => {
        const from = child(parent, name);
        const to = child(newParent, newName);
        fs.renameSync(from, to);
        paths.set(fs.lstatSync(to, { bigint: true }).ino, to);
      }),
    link: (_caller, ino, newParent, newName) =>
      guard(() => {
        fs.linkSync(path(ino), child(newParent, newName));
        return look(child(newParent, newName));
      }),
    open: () => ({ handle: 0n, directIo: false }),
    async create(_caller, parent, name, mode, _flags, umask) {
      if (name.startsWith('@create')) {
        for (let i = 0; i < 6; i++) notifier?.invalidateEntry(parent, `other-${i}`);
        for (let i = 0; i < 8; i++) await fs.promises.stat(root);
      }
      if (name === '@hold' && !fs.existsSync(join(root, '@held'))) {
        fs.writeFileSync(join(root, '@held'), '');
        notifier?.invalidateEntry(parent, 'other');
        return new Promise(() => undefined);
      }
      return guard(() => {
        const full = child(parent, name);
        const fd = fs.openSync(full, fs.constants.O_RDWR | fs.constants.O_CREAT, mode & ~umask & 0o7777);
        const created = look(full);
        const old = descriptors.get(created.attributes.ino);
        if (old !== undefined) fs.closeSync(old);
        descriptors.set(created.attributes.ino, fd);
        return { entry: created, open: { handle: 0n } };
      });
    },
    tmpfile: unsupported('tmpfile'),
    read(caller, ino, _handle, offset, size) {
      const name = path(ino).slice(root.length + 1);
      if (name === '@stuck') return stuck(caller);
      if (name === '@throw') throw new TypeError('a bug in an operation');
      const data = Buffer.allocUnsafe(size);
      const bytes = guard(() => fs.readSync(descriptor(ino), data, 0, size, Number(offset)));
      const result = data.subarray(0, bytes);
      return name === '@slow' ? sleep(1).then(() => result) : result;
    },
    write: (_caller, ino, _handle, offset, data) =>
      guard(() => fs.writeSync(descriptor(ino), data, 0, data.length, Number(offset))),
    flush: () => undefined,
    release(_caller, ino) {
      const fd = descriptors.get(ino);
      if (fd !== undefined) fs.closeSync(fd);
      descriptors.delete(ino);
    },
    fsync: () => undefined,
    fallocate: unsupported('fallocate'),
    lseek: unsupported('lseek'),
    copyFileRange: unsupported('copyFileRange'),
    opendir: () => ({ handle: 0n }),
    readdir: (_caller, ino, _handle, cookie, plus, accept) =>
      guard(() => {
        // Sorted names with their position as cookie: stable as long as a test does not change the directory while it lists it.
        const folder = path(ino);
        const list: (readonly [string, string])[] = [
          ['.', folder],
          ['..', folder],
          ...fs
            .readdirSync(folder)
            .sort()
            .map((name) => [name, join(folder, name)] as const),
        ];
        for (let i = Number(cookie); i < list.length; i++) {
          const [name = '', full = ''] = list[i] ?? [];
          const known = entry(full);
          const taken: DirectoryEntry = {
            name: Buffer.from(name).toString('latin1'),
            ino: known.attributes.ino,
            type: known.attributes.mode >> 12,
            cookie: BigInt(i + 1),
            ...(plus && { entry: known }),
          };
          if (!accept(taken)) return;
          if (plus && i > 1) look(full);
        }
      }),
    releasedir: () => undefined,
    fsyncdir: () => undefined,
    statfs: () => ({
      blocks: 1n << 20n,
      blocksFree: 1n << 19n,
      blocksAvailable: 1n << 19n,
      files: 1n << 20n,
      filesFree: 1n << 19n,
      blockSize: 4096,
      nameMax: 255,
    }),
    setxattr: unsupported('setxattr'),
    getxattr: unsupported('getxattr'),
    listxattr: () => [],
    removexattr: unsupported('removexattr'),
    hasLocks: () => false,
    getlk: (_caller, _ino, _handle, _owner, lock) => ({ ...lock, type: 'unlock' }),
    setlk: () => undefined,
    drain: async () => undefined,
  };
}
