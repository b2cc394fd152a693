/**
 * Feed messages: what a commit says to other clients' caches.
 *
 *   varint session of the sender (which knows already and skips it)
 *   varint count, then:  u8 1, varint ino                  the inode changed (attributes, content, entries' times)
 *                      u8 2, varint parent, latin1 name  the entry changed
 *                      u8 3, varint directory            a lake directory has a new listing
 *                      u8 4, varint ino                  locks were granted to those who wait for them
 *                      u8 5, varint directory            its quota changed
 *   u32 CRC32C
 */
import { ByteReader, ByteWriter } from './bytes.ts';

export type Change =
  | { readonly kind: 'inode'; readonly ino: number }
  | { readonly kind: 'entry'; readonly parent: number; readonly name: string }
  | { readonly kind: 'listing' | 'lock' | 'quota'; readonly ino: number };

const INODE = 1;
const ENTRY = 2;
const LISTING = 3;
const LOCK = 4;
const QUOTA = 5;
const CODES = { inode: INODE, listing: LISTING, lock: LOCK, quota: QUOTA } as const;
const scratch = new ByteWriter();

export function encodeChanges(session: number, changes: readonly Change[]): Buffer {
  const writer = scratch.reset().varint(session).varint(changes.length);
  for (const change of changes) {
    if (change.kind === 'entry') writer.u8(ENTRY).varint(change.parent).latin1(change.name);
    else writer.u8(CODES[change.kind]).varint(change.ino);
  }
  return writer.finish();
}

/** Throws `corrupt`. */
export function decodeChanges(message: Buffer): { readonly session: number; readonly changes: readonly Change[] } {
  const reader = new ByteReader(message, 'feed message');
  const session = reader.varint();
  const count = reader.varint();
  const changes: Change[] = [];
  for (let i = 0; i < count; i++) {
    const kind = reader.u8();
    if (kind === ENTRY) changes.push({ kind: 'entry', parent: reader.varint(), name: reader.latin1() });
    else if (kind === INODE) changes.push({ kind: 'inode', ino: reader.varint() });
    else if (kind === LISTING) changes.push({ kind: 'listing', ino: reader.varint() });
    else if (kind === LOCK) changes.push({ kind: 'lock', ino: reader.varint() });
    else if (kind === QUOTA) changes.push({ kind: 'quota', ino: reader.varint() });
    else throw reader.damaged(`unknown change ${kind}`);
  }
  reader.end();
  return { session, changes };
}
