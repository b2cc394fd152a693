/**
 * The access control lists of a volume: attributes that are coupled with the mode of their inode. A flag in the inode says whether there
 * is one; a list that says no more than the mode is not kept.
 * Invariants: the list and the mode change in one commit. A default list is cached under the version of its directory, so creates read it once.
 */
import {
  INODE_ACCESS_ACL,
  INODE_DEFAULT_ACL,
  INODE_XATTRS,
  isDirectory,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
} from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';
import { ACCESS_ACL, aclAfterChmod, decodeAcl, DEFAULT_ACL, encodeAcl, inheritedAcl, modeOfAcl } from './acl.ts';
import type { Acl } from './acl.ts';
import { Errno, PosixError } from './operations.ts';
import { inherit } from './ownership.ts';

const DEFAULTS_KEPT = 4096;
const PERMISSIONS = 0o777;
const S_ISGID = 0o2000;

interface Versioned {
  readonly version: string;
  readonly acl: Acl;
}

/** What is to be made, as a program asks for it. */
export interface Wanted {
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
  readonly umask: number;
  readonly fields: Partial<Inode>;
}

export class Acls {
  readonly #view: VolumeView;
  readonly #defaults = new BoundedMap<number, Versioned>(DEFAULTS_KEPT);

  constructor(view: VolumeView) {
    this.#view = view;
  }

  /** Adds an inode with what it inherits from its directory. */
  async addNode(change: Change, ino: number, parent: Node, wanted: Wanted, nowNs: bigint): Promise<void> {
    const { mode, umask, fields } = wanted;
    const type = mode & S_IFMT;
    if (type === S_IFLNK || (parent.inode.flags & INODE_DEFAULT_ACL) === 0) {
      const masked = type === S_IFLNK ? mode : mode & ~(umask & PERMISSIONS);
      change.addNode(ino, inherit(parent, wanted, masked, nowNs, fields));
      return;
    }
    const defaults = await this.#default(parent);
    const { acl, mode: masked } = inheritedAcl(defaults, mode);
    let flags = fields.flags ?? 0;
    if (!modeOfAcl(acl).whole) {
      flags |= INODE_XATTRS | INODE_ACCESS_ACL;
      change.write(this.#view.keys.xattr(ino, ACCESS_ACL), encodeAcl(acl));
    }
    if (type === S_IFDIR) {
      flags |= INODE_XATTRS | INODE_DEFAULT_ACL;
      change.write(this.#view.keys.xattr(ino, DEFAULT_ACL), encodeAcl(defaults));
    }
    change.addNode(ino, inherit(parent, wanted, masked, nowNs, { ...fields, flags }));
  }

  async #default(directory: Node): Promise<Acl> {
    const kept = this.#defaults.get(directory.ino);
    if (kept?.version === directory.version) return kept.acl;
    const acl = await this.#read(directory.ino, DEFAULT_ACL);
    this.#defaults.set(directory.ino, { version: directory.version, acl });
    return acl;
  }

  async #read(ino: number, name: string): Promise<Acl> {
    const [stored] = await this.#view.read([this.#view.keys.xattr(ino, name)]);
    if (stored === null || stored === undefined) throw new PosixError(Errno.EIO, `inode ${ino} has lost its '${name}'`);
    return decodeAcl(stored.value);
  }

  /** chmod of an inode with a list. */
  async chmod(change: Change, { ino, inode }: Node, mode: number): Promise<void> {
    if ((inode.flags & INODE_ACCESS_ACL) === 0) return;
    const acl = aclAfterChmod(await this.#read(ino, ACCESS_ACL), mode);
    change.write(this.#view.keys.xattr(ino, ACCESS_ACL), encodeAcl(acl));
  }

  /** The inode with another list; one without entries takes it away. EINVAL, EACCES for a default list of what is no directory. */
  set(change: Change, { ino, inode }: Node, name: string, value: Buffer | null, killSgid: boolean): Inode {
    const acl = value === null ? [] : decodeAcl(value);
    const key = this.#view.keys.xattr(ino, name);
    if (name === DEFAULT_ACL) {
      if (acl.length > 0 && !isDirectory(inode)) throw new PosixError(Errno.EACCES, `inode ${ino} is not a directory`);
      change.write(key, acl.length === 0 ? null : encodeAcl(acl));
      return acl.length === 0 ? without(inode, INODE_DEFAULT_ACL) : having(inode, INODE_DEFAULT_ACL);
    }
    if (acl.length === 0) {
      change.write(key, null);
      return without(inode, INODE_ACCESS_ACL);
    }
    const { mode, whole } = modeOfAcl(acl);
    const kept = inode.mode & ~PERMISSIONS & (killSgid ? ~S_ISGID : ~0);
    change.write(key, whole ? null : encodeAcl(acl));
    return { ...(whole ? without(inode, INODE_ACCESS_ACL) : having(inode, INODE_ACCESS_ACL)), mode: kept | mode };
  }
}

function having(inode: Inode, flag: number): Inode {
  return { ...inode, flags: inode.flags | flag | INODE_XATTRS };
}

function without(inode: Inode, flag: number): Inode {
  return { ...inode, flags: inode.flags & ~flag };
}
