/** Extended attributes: a flag in the inode says whether there are any, so that most questions need no read. */
import { INODE_ACCESS_ACL, INODE_DEFAULT_ACL, INODE_XATTRS } from '../../lib/volume/inode.ts';
import { ACCESS_ACL, isAcl } from './acl.ts';
import type { Acls } from './acls.ts';
import { NAME_MAX, nodeOrThrow, refuseFrozen } from './context.ts';
import type { Context } from './context.ts';
import { Errno, PosixError } from './operations.ts';
import type { Caller, Result } from './operations.ts';

const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
/** Linux's XATTR_SIZE_MAX. */
const VALUE_BYTES_MAX = 65_536;
/** Linux's XATTR_LIST_MAX, in names of the usual length. */
const NAMES_MAX = 1000;
/** Made once: most of what an error costs is its stack. */
const NONE = new PosixError(Errno.ENODATA, 'no extended attributes');
/** What a file system without labels answers: ls -l asks for the label of one file then, and not of each. */
const SELINUX = 'security.selinux';
const NO_LABELS = new PosixError(Errno.EOPNOTSUPP, 'no security labels');
const NAMESPACES = ['user.', 'trusted.', 'security.'];

export class ExtendedAttributes {
  readonly #context: Context;
  readonly #acls: Acls;

  constructor(context: Context, acls: Acls) {
    this.#context = context;
    this.#acls = acls;
  }

  get(ino: number, name: string): Result<Buffer> {
    const found = nodeOrThrow(this.#context.view, ino);
    // The kernel asks for security.capability before writes, ls -l for several of each file: the common answer must cost nothing.
    if (!(found instanceof Promise) && (found.inode.flags & flagOf(name)) === 0) throw absent(name);
    return this.#read(ino, name);
  }

  async #read(ino: number, name: string): Promise<Buffer> {
    const { view } = this.#context;
    const node = await nodeOrThrow(view, ino);
    if ((node.inode.flags & flagOf(name)) === 0) throw absent(name);
    const [stored] = await view.read([view.keys.xattr(ino, name)]);
    if (stored === null || stored === undefined) throw noData(name);
    return stored.value;
  }

  async list(ino: number): Promise<string[]> {
    const { view } = this.#context;
    const node = await nodeOrThrow(view, ino);
    return (node.inode.flags & INODE_XATTRS) === 0 ? [] : (await view.xattrNames(ino, NAMES_MAX)).sort();
  }

  async set(caller: Caller, ino: number, name: string, value: Buffer, flags: number, killSgid: boolean): Promise<void> {
    if (isAcl(name)) {
      await this.#setAcl(caller, ino, name, Buffer.from(value), killSgid);
      return;
    }
    if (!NAMESPACES.some((prefix) => name.startsWith(prefix) && name.length > prefix.length)) {
      throw new PosixError(Errno.EOPNOTSUPP, `extended attribute '${name}'`);
    }
    if (name.length > NAME_MAX) throw new PosixError(Errno.ERANGE, 'an attribute name of more than 255 bytes');
    if (value.length > VALUE_BYTES_MAX) throw new PosixError(Errno.ENOSPC, 'an attribute of more than 64 KiB');
    const kept = Buffer.from(value);
    const { view, time } = this.#context;
    await view.change(caller.operation, async (change) => {
      const node = await nodeOrThrow(view, ino);
      refuseFrozen(node);
      const key = view.keys.xattr(ino, name);
      if ((flags & (XATTR_CREATE | XATTR_REPLACE)) !== 0) {
        const stored = (await view.read([key]))[0] ?? null;
        if (stored !== null && (flags & XATTR_CREATE) !== 0) throw new PosixError(Errno.EEXIST, `'${name}' exists`);
        if (stored === null && (flags & XATTR_REPLACE) !== 0) throw noData(name);
        change.expectOther(key, stored?.version ?? null);
      }
      change.write(key, kept);
      const { inode } = node;
      change.updateNode(node, { ...inode, flags: inode.flags | INODE_XATTRS, ctimeNs: time.nowNs() });
    });
  }

  async #setAcl(caller: Caller, ino: number, name: string, value: Buffer | null, killSgid: boolean): Promise<void> {
    const { view, time } = this.#context;
    await view.change(caller.operation, async (change) => {
      const node = await nodeOrThrow(view, ino);
      refuseFrozen(node);
      const inode = this.#acls.set(change, node, name, value, killSgid);
      change.updateNode(node, { ...inode, ctimeNs: time.nowNs() });
    });
  }

  async remove(caller: Caller, ino: number, name: string): Promise<void> {
    if (isAcl(name)) {
      await this.#setAcl(caller, ino, name, null, false);
      return;
    }
    const { view, time } = this.#context;
    await view.change(caller.operation, async (change) => {
      const node = await nodeOrThrow(view, ino);
      refuseFrozen(node);
      const key = view.keys.xattr(ino, name);
      const stored = (await view.read([key]))[0] ?? null;
      if (stored === null) throw noData(name);
      change.expectOther(key, stored.version);
      change.write(key, null);
      change.updateNode(node, { ...node.inode, ctimeNs: time.nowNs() });
    });
  }
}

/** What an inode with this attribute has. */
function flagOf(name: string): number {
  if (!isAcl(name)) return INODE_XATTRS;
  return name === ACCESS_ACL ? INODE_ACCESS_ACL : INODE_DEFAULT_ACL;
}

function absent(name: string): PosixError {
  return name === SELINUX ? NO_LABELS : NONE;
}

function noData(name: string): PosixError {
  return new PosixError(Errno.ENODATA, `no extended attribute '${name}'`);
}
