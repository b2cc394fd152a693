/**
 * Listing generations: the entries of a lake directory as immutable segments behind one pointer record, so that replacing 10,000
 * files by two is one record written.
 *
 *   pointer record ({v}l:<ino> p)
 *     u8      format (1)
 *     varint  generation         counts the flips
 *     varint  changedMs          the directory's mtime
 *     list    live segments:     varint segment (a number of the volume's `ino` counter, so never reused), varint entries in it
 *     list    live entries       kept in the pointer itself (at most INLINE_ENTRIES_MAX, else they become a segment)
 *     list    retired segments:  varint segment, varint retiredMs
 *     list    retired entries:   entry, varint retiredMs
 *     u32     CRC32C
 *   segment record ({v}l:<ino> <n>):  u8 format (1), list of entries, u32 CRC32C
 *   list = varint count, items;  entry = latin1 name, varint ino.  Entries are sorted by name.
 *
 * Invariants
 * - The live names are those of the live entries and segments, each once. A retired name can be opened, not listed.
 * - A segment is never changed. It may be dropped in the commit that replaces the pointer, so a reader that misses one reads the
 *   pointer again.
 * Limits: SEGMENT_ENTRIES_MAX and SEGMENT_BYTES_MAX a segment, so that reading one never blocks the engine for long.
 */
import { ByteReader, ByteWriter } from './bytes.ts';

export const SEGMENT_ENTRIES_MAX = 1000;
export const SEGMENT_BYTES_MAX = 64 * 1024;
/** The pointer is rewritten by every flip: a few kilobytes. */
export const INLINE_ENTRIES_MAX = 64;
const FORMAT = 1;

export interface ListingEntry {
  readonly name: string;
  readonly ino: number;
}

export interface ListingPointer {
  readonly generation: number;
  readonly changedMs: number;
  readonly segments: readonly { readonly segment: number; readonly entries: number }[];
  readonly entries: readonly ListingEntry[];
  readonly retiredSegments: readonly { readonly segment: number; readonly retiredMs: number }[];
  readonly retiredEntries: readonly (ListingEntry & { readonly retiredMs: number })[];
}

export const EMPTY_LISTING: ListingPointer = {
  generation: 0,
  changedMs: 0,
  segments: [],
  entries: [],
  retiredSegments: [],
  retiredEntries: [],
};

const scratch = new ByteWriter();

function writeList<T>(writer: ByteWriter, items: readonly T[], write: (item: T) => void): void {
  writer.varint(items.length);
  items.forEach(write);
}

function readList<T>(reader: ByteReader, read: () => T): T[] {
  const count = reader.varint();
  const items: T[] = [];
  // The reader throws when the record ends, so a damaged count cannot run on.
  for (let i = 0; i < count; i++) items.push(read());
  return items;
}

export function encodePointer(pointer: ListingPointer): Buffer {
  const writer = scratch.reset().u8(FORMAT);
  writer.varint(pointer.generation).varint(pointer.changedMs);
  writeList(writer, pointer.segments, (s) => writer.varint(s.segment).varint(s.entries));
  writeList(writer, pointer.entries, (e) => writer.latin1(e.name).varint(e.ino));
  writeList(writer, pointer.retiredSegments, (s) => writer.varint(s.segment).varint(s.retiredMs));
  writeList(writer, pointer.retiredEntries, (e) => writer.latin1(e.name).varint(e.ino).varint(e.retiredMs));
  return writer.finish();
}

/** Throws `corrupt` naming the directory. */
export function decodePointer(value: Buffer, directory: number): ListingPointer {
  const reader = new ByteReader(value, `listing of directory ${directory}`);
  if (reader.u8() !== FORMAT) throw reader.damaged('unknown format');
  const pointer = {
    generation: reader.varint(),
    changedMs: reader.varint(),
    segments: readList(reader, () => ({ segment: reader.varint(), entries: reader.varint() })),
    entries: readList(reader, () => ({ name: reader.latin1(), ino: reader.varint() })),
    retiredSegments: readList(reader, () => ({ segment: reader.varint(), retiredMs: reader.varint() })),
    retiredEntries: readList(reader, () => ({
      name: reader.latin1(),
      ino: reader.varint(),
      retiredMs: reader.varint(),
    })),
  };
  reader.end();
  return pointer;
}

export function encodeSegment(entries: readonly ListingEntry[]): Buffer {
  const writer = scratch.reset().u8(FORMAT);
  writeList(writer, entries, (e) => writer.latin1(e.name).varint(e.ino));
  return writer.finish();
}

/** Throws `corrupt` naming the directory and the segment. */
export function decodeSegment(value: Buffer, directory: number, segment: number): ListingEntry[] {
  const reader = new ByteReader(value, `listing segment ${segment} of directory ${directory}`);
  if (reader.u8() !== FORMAT) throw reader.damaged('unknown format');
  const entries = readList(reader, () => ({ name: reader.latin1(), ino: reader.varint() }));
  reader.end();
  return entries;
}

/** Cuts sorted entries into segments within the limits. */
export function cutSegments(entries: readonly ListingEntry[]): ListingEntry[][] {
  const segments: ListingEntry[][] = [];
  let current: ListingEntry[] = [];
  let bytes = 0;
  for (const entry of entries) {
    // A name of up to 255 bytes has 2 bytes of length and its inode number at most 8.
    const entryBytes = entry.name.length + 10;
    if (current.length >= SEGMENT_ENTRIES_MAX || (current.length > 0 && bytes + entryBytes > SEGMENT_BYTES_MAX - 64)) {
      segments.push(current);
      current = [];
      bytes = 0;
    }
    current.push(entry);
    bytes += entryBytes;
  }
  if (current.length > 0) segments.push(current);
  return segments;
}

export function byName(a: ListingEntry, b: ListingEntry): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}
