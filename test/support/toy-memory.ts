/**
 * A file system in memory whose operations all answer at once: what remains is the cost of the FUSE side. For `bench/fuse-loop.ts` and for
 * tests that need no persistence.
 */
import { Errno, PosixError } from '../../fs-gateway/vfs/operations.ts';
import type { Attributes, Entry, Operations } from '../../fs-gateway/vfs/operations.ts';

const S_IFDIR = 0o040_000;
const S_IFMT = 0o170_000;
const S_IFREG = 0o100_000;

interface Node {
  attributes: Attributes;
  readonly children: Map<string, Node> | undefined;
  data: Buffer;
}

export interface MemoryFsOptions {
  readonly ttlMs?: number;
  /** Answer CREATE by a promise that settles in a later turn of the event loop, as one that asks a database does. */
  readonly asynchronousCreate?: boolean;
}

export function memoryFs({ ttlMs = 0, asynchronousCreate = false }: MemoryFsOptions = {}): Operations {
  const nodes = new Map<bigint, Node>();
  let nextIno = 1n;

  function make(mode: number, uid: number, gid: number): Node {
    const now = BigInt(Date.now()) * 1_000_000n;
    const directory = (mode & S_IFMT) === S_IFDIR;
    const attributes: Attributes = {
      ino: nextIno++,
      generation: 0n,
      mode,
      nlink: directory ? 2 : 1,
      uid,
      gid,
      rdev: 0,
      size: 0n,
      blocks: 0n,
      blockSize: 4096,
      atimeNs: now,
      mtimeNs: now,
      ctimeNs: now,
    };
    const node: Node = { attributes, children: directory ? new Map() : undefined, data: Buffer.alloc(0) };
    nodes.set(attributes.ino, node);
    return node;
  }
  function fail(errno: number): never {
    throw new PosixError(errno, `errno ${errno}`);
  }
  const get = (ino: bigint): Node => nodes.get(ino) ?? fail(Errno.ESTALE);
  const directory = (ino: bigint): Map<string, Node> => get(ino).children ?? fail(Errno.ENOTDIR);
  const entry = ({ attributes }: Node): Entry => ({ attributes, entryTtlMs: ttlMs, attributesTtlMs: ttlMs });
  function change(node: Node, changes: Partial<Attributes>): void {
    node.attributes = { ...node.attributes, ...changes };
  }
  function resize(node: Node, bytes: number): void {
    const data = Buffer.alloc(bytes);
    node.data.copy(data);
    node.data = data;
    change(node, { size: BigInt(bytes) });
  }
  function add(parent: bigint, name: string, mode: number, uid: number, gid: number): Node {
    const children = directory(parent);
    if (children.has(name)) fail(Errno.EEXIST);
    const node = make(mode, uid, gid);
    children.set(name, node);
    return node;
  }
  function remove(parent: bigint, name: string): void {
    if (!directory(parent).delete(name)) fail(Errno.ENOENT);
  }
  const unsupported = (): never => fail(Errno.EOPNOTSUPP);
  make(S_IFDIR | 0o777, 0, 0);

  return {
    lookup(_caller, parent, name) {
      const node = directory(parent).get(name);
      return node === undefined ? { negativeTtlMs: ttlMs } : entry(node);
    },
    forget: () => undefined,
    getattr: (_caller, ino) => entry(get(ino)),
    setattr(_caller, ino, { mode, size, uid, gid }) {
      const node = get(ino);
      if (size !== undefined) resize(node, Number(size));
      if (mode !== undefined) change(node, { mode: (node.attributes.mode & S_IFMT) | (mode & 0o7777) });
      change(node, { ...(uid !== undefined && { uid }), ...(gid !== undefined && { gid }) });
      return entry(node);
    },
    readlink: unsupported,
    mknod: (caller, parent, name, mode) => entry(add(parent, name, mode, caller.uid, caller.gid)),
    mkdir: (caller, parent, name, mode, umask) =>
      entry(add(parent, name, S_IFDIR | (mode & ~umask), caller.uid, caller.gid)),
    symlink: unsupported,
    unlink: (_caller, parent, name) => remove(parent, name),
    rmdir: (_caller, parent, name) => remove(parent, name),
    rename(_caller, parent, name, newParent, newName) {
      const node = directory(parent).get(name) ?? fail(Errno.ENOENT);
      directory(newParent).set(newName, node);
      directory(parent).delete(name);
    },
    link: unsupported,
    open: () => ({ handle: 1n, keepCache: true }),
    create(caller, parent, name, mode, _flags, umask) {
      const created = () => ({
        entry: entry(add(parent, name, S_IFREG | (mode & 0o7777 & ~umask), caller.uid, caller.gid)),
        open: { handle: 1n },
      });
      if (!asynchronousCreate) return created();
      return new Promise((resolve) => setImmediate(() => resolve(created())));
    },
    tmpfile: unsupported,
    read: (_caller, ino, _handle, offset, size) => get(ino).data.subarray(Number(offset), Number(offset) + size),
    write(_caller, ino, _handle, offset, data) {
      const node = get(ino);
      const end = Number(offset) + data.length;
      if (end > node.data.length) resize(node, end);
      data.copy(node.data, Number(offset));
      return data.length;
    },
    flush: () => undefined,
    release: () => undefined,
    fsync: () => undefined,
    fallocate: unsupported,
    lseek: unsupported,
    copyFileRange: unsupported,
    opendir: () => ({ handle: 0n }),
    readdir(_caller, ino, _handle, cookie, plus, accept) {
      const names = [['.', get(ino)], ['..', get(ino)], ...directory(ino)] as const;
      for (let i = Number(cookie); i < names.length; i++) {
        const [name, node] = names[i] ?? fail(Errno.EIO);
        const known = entry(node);
        const taken = {
          name,
          ino: known.attributes.ino,
          type: known.attributes.mode >> 12,
          cookie: BigInt(i + 1),
          ...(plus && { entry: known }),
        };
        if (!accept(taken)) return;
      }
    },
    releasedir: () => undefined,
    fsyncdir: () => undefined,
    statfs: () => ({
      blocks: 0n,
      blocksFree: 0n,
      blocksAvailable: 0n,
      files: 0n,
      filesFree: 0n,
      blockSize: 4096,
      nameMax: 255,
    }),
    setxattr: unsupported,
    getxattr: unsupported,
    listxattr: () => [],
    removexattr: unsupported,
    hasLocks: () => false,
    getlk: (_caller, _ino, _handle, _owner, lock) => ({ ...lock, type: 'unlock' }),
    setlk: () => undefined,
    drain: async () => undefined,
  };
}
