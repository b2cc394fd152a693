/**
 * POSIX access control lists (POSIX.1e draft 17, acl(5)) as Linux passes them in the attributes `system.posix_acl_access` and
 * `system.posix_acl_default`. Whether somebody may is checked by the kernel (FUSE_POSIX_ACL); here is what follows from a list for the
 * mode of a file, and from a mode for its list.
 *
 *   u32 version (2), then entries:  u16 tag, u16 permissions (rwx = 4 2 1), u32 id (of USER and GROUP)         all little-endian
 */
import { Errno, PosixError } from './operations.ts';

export const ACCESS_ACL = 'system.posix_acl_access';
export const DEFAULT_ACL = 'system.posix_acl_default';

const VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
const NO_ID = 0xffffffff;
const USER_OBJ = 1;
const USER = 2;
const GROUP_OBJ = 4;
const GROUP = 8;
const MASK = 16;
const OTHER = 32;
/** The order in which the kernel insists on them. */
const ORDER = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
const ONCE = [USER_OBJ, GROUP_OBJ, OTHER];
const RWX = 7;

interface AclEntry {
  readonly tag: number;
  readonly permissions: number;
  readonly id: number;
}

export type Acl = readonly AclEntry[];

export function isAcl(name: string): boolean {
  return name === ACCESS_ACL || name === DEFAULT_ACL;
}

/** An empty list for a value without entries. EINVAL for what acl(5) does not allow. */
export function decodeAcl(value: Buffer): Acl {
  const count = (value.length - HEADER_BYTES) / ENTRY_BYTES;
  if (value.length < HEADER_BYTES || !Number.isInteger(count) || value.readUInt32LE(0) !== VERSION) throw invalid();
  const acl: AclEntry[] = [];
  for (let at = HEADER_BYTES; at < value.length; at += ENTRY_BYTES) {
    acl.push({
      tag: value.readUInt16LE(at),
      permissions: value.readUInt16LE(at + 2),
      id: value.readUInt32LE(at + 4),
    });
  }
  if (acl.length > 0) assertValid(acl);
  return acl;
}

function invalid(): PosixError {
  return new PosixError(Errno.EINVAL, 'not an access control list');
}

function assertValid(acl: Acl): void {
  const places = acl.map(({ tag }) => ORDER.indexOf(tag));
  if (places.some((place, index) => place < 0 || place < (places[index - 1] ?? 0))) throw invalid();
  if (acl.some(({ permissions }) => permissions > RWX)) throw invalid();
  if (ONCE.some((tag) => acl.filter((entry) => entry.tag === tag).length !== 1)) throw invalid();
  const masks = acl.filter(({ tag }) => tag === MASK).length;
  if (masks > 1 || (isExtended(acl) && masks === 0)) throw invalid();
}

export function encodeAcl(acl: Acl): Buffer {
  const value = Buffer.alloc(HEADER_BYTES + acl.length * ENTRY_BYTES);
  value.writeUInt32LE(VERSION, 0);
  for (const [index, { tag, permissions, id }] of acl.entries()) {
    const at = HEADER_BYTES + index * ENTRY_BYTES;
    value.writeUInt16LE(tag, at);
    value.writeUInt16LE(permissions, at + 2);
    value.writeUInt32LE(tag === USER || tag === GROUP ? id : NO_ID, at + 4);
  }
  return value;
}

function isExtended(acl: Acl): boolean {
  return acl.some(({ tag }) => tag === USER || tag === GROUP);
}

function permissionsOf(acl: Acl, tag: number): number | undefined {
  return acl.find((entry) => entry.tag === tag)?.permissions;
}

/** Where the group's bits of a mode are. */
function groupTag(acl: Acl): number {
  return permissionsOf(acl, MASK) === undefined ? GROUP_OBJ : MASK;
}

/** The permission bits of a file with this list (the group's are the mask), and whether they say all of it. */
export function modeOfAcl(acl: Acl): { readonly mode: number; readonly whole: boolean } {
  const [user, group, other] = [USER_OBJ, groupTag(acl), OTHER].map((tag) => permissionsOf(acl, tag) ?? 0);
  return { mode: ((user ?? 0) << 6) | ((group ?? 0) << 3) | (other ?? 0), whole: acl.length === ONCE.length };
}

/** The list after chmod. */
export function aclAfterChmod(acl: Acl, mode: number): Acl {
  const group = groupTag(acl);
  return acl.map((entry) => {
    if (entry.tag === USER_OBJ) return { ...entry, permissions: (mode >> 6) & RWX };
    if (entry.tag === group) return { ...entry, permissions: (mode >> 3) & RWX };
    return entry.tag === OTHER ? { ...entry, permissions: mode & RWX } : entry;
  });
}

/** What is made in a directory with this default list, by a program that asks for `mode`. The umask does not count. */
export function inheritedAcl(parentDefault: Acl, mode: number): { readonly acl: Acl; readonly mode: number } {
  const { mode: allowed } = modeOfAcl(parentDefault);
  const masked = (mode & ~0o777) | (mode & allowed & 0o777);
  return { acl: aclAfterChmod(parentDefault, masked), mode: masked };
}
