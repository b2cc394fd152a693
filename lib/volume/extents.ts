/**
 * Extents: which bytes of which immutable object are which bytes of a file. One representation for a small file in a shared pack,
 * a large one in blocks, a published file in the lake's own object (zero copy) and a clone in its source's objects.
 *
 *   list:    varint count, then the extents in the order of their file offsets, which never overlap; what lies between is a hole
 *   extent:  u8     flags: 1 external, 2 the slice is the whole piece, 4 begins where the one before ended, 8 stored in zstd, 16 has an etag
 *            varint gap      bytes between the end of the one before and this one (absent with flag 4)
 *            varint length   bytes of the file
 *            varint sliceOffset  where the slice begins in the piece (absent with flag 2)
 *     own:   varint objectId, varint pieceOffset (where the piece begins in the object), varint pieceBytes, u32 crc32c of the piece,
 *            varint storedBytes  in the object (flag 8 only, and fewer than pieceBytes)
 *     external: bytes key, varint objectBytes, bytes etag (flag 16 only)
 *
 * A *piece* is what was written and checksummed at once; it is fetched and verified whole (at most the block size), however small
 * the slice of it that a file still shows. Lengths and checksum are of its content, whether it is stored in zstd or as it is. An external object has no checksum of ours; its length
 * is checked, and its etag where it is not the lake's, whose objects never change.
 */
import type { ByteReader, ByteWriter } from './bytes.ts';

export interface OwnPiece {
  readonly kind: 'own';
  readonly objectId: number;
  readonly pieceOffset: number;
  readonly pieceBytes: number;
  /** In the object: fewer than `pieceBytes` where it is stored in zstd, else as many. */
  readonly storedBytes: number;
  readonly crc: number;
}

export interface ExternalObject {
  readonly kind: 'external';
  /** Key in the volume's store. */
  readonly key: string;
  readonly objectBytes: number;
  /** Of an object that somebody else may write again: bytes of another version are refused. */
  readonly etag?: string;
}

export interface Extent {
  readonly fileOffset: number;
  readonly length: number;
  /** Where the slice begins in the piece, or in the external object. */
  readonly sliceOffset: number;
  readonly source: OwnPiece | ExternalObject;
}

const EXTERNAL = 1;
const WHOLE = 2;
const ADJACENT = 4;
const COMPRESSED = 8;
const VERSIONED = 16;
/** More in one record than a damaged count may make us allocate; a page of 64 MiB in 1 KiB fragments. */
const EXTENTS_MAX = 65_536;

function sourceBytes(extent: Extent): number {
  return extent.source.kind === 'own' ? extent.source.pieceBytes : extent.source.objectBytes;
}

/** Where the extent ends in the file. */
export function extentEnd(extent: Extent): number {
  return extent.fileOffset + extent.length;
}

export function writeExtents(writer: ByteWriter, extents: readonly Extent[]): void {
  writer.varint(extents.length);
  let end = 0;
  for (const extent of extents) {
    const whole = extent.sliceOffset === 0 && extent.length === sourceBytes(extent);
    const adjacent = extent.fileOffset === end;
    const source = extent.source;
    const compressed = source.kind === 'own' && source.storedBytes < source.pieceBytes;
    const etag = source.kind === 'external' ? source.etag : undefined;
    const kind =
      (source.kind === 'external' ? EXTERNAL : 0) |
      (compressed ? COMPRESSED : 0) |
      (etag === undefined ? 0 : VERSIONED);
    writer.u8(kind | (whole ? WHOLE : 0) | (adjacent ? ADJACENT : 0));
    if (!adjacent) writer.varint(extent.fileOffset - end);
    writer.varint(extent.length);
    if (!whole) writer.varint(extent.sliceOffset);
    if (source.kind === 'own') {
      writer.varint(source.objectId).varint(source.pieceOffset).varint(source.pieceBytes).u32(source.crc);
      if (compressed) writer.varint(source.storedBytes);
    } else {
      writer.bytes(Buffer.from(source.key)).varint(source.objectBytes);
      if (etag !== undefined) writer.bytes(Buffer.from(etag));
    }
    end = extentEnd(extent);
  }
}

export function readExtents(reader: ByteReader): Extent[] {
  const count = reader.varint();
  if (count > EXTENTS_MAX) throw reader.damaged(`${count} extents in one record`);
  const extents: Extent[] = [];
  let end = 0;
  for (let i = 0; i < count; i++) {
    const flags = reader.u8();
    const external = (flags & EXTERNAL) !== 0;
    if (flags > 31 || (flags & (external ? COMPRESSED : VERSIONED)) !== 0)
      throw reader.damaged(`an extent has unknown flags ${flags}`);
    const fileOffset = (flags & ADJACENT) === 0 ? end + reader.varint() : end;
    const length = reader.varint();
    const sliceOffset = (flags & WHOLE) === 0 ? reader.varint() : 0;
    const source: Extent['source'] = external
      ? readExternal(reader, (flags & VERSIONED) !== 0)
      : readOwn(reader, (flags & COMPRESSED) !== 0);
    const extent: Extent = { fileOffset, length, sliceOffset, source };
    if (length === 0 || sliceOffset + length > sourceBytes(extent)) {
      throw reader.damaged(`extent ${i} lies outside of its object`);
    }
    extents.push(extent);
    end = fileOffset + length;
  }
  return extents;
}

function readOwn(reader: ByteReader, compressed: boolean): OwnPiece {
  const objectId = reader.varint();
  const pieceOffset = reader.varint();
  const pieceBytes = reader.varint();
  const crc = reader.u32();
  const storedBytes = compressed ? reader.varint() : pieceBytes;
  if (compressed && (storedBytes === 0 || storedBytes >= pieceBytes)) {
    throw reader.damaged(`a piece of ${pieceBytes} bytes is stored in ${storedBytes}`);
  }
  return { kind: 'own', objectId, pieceOffset, pieceBytes, storedBytes, crc };
}

function readExternal(reader: ByteReader, versioned: boolean): ExternalObject {
  const object = { kind: 'external', key: reader.bytes().toString(), objectBytes: reader.varint() } as const;
  return versioned ? { ...object, etag: reader.bytes().toString() } : object;
}

/** The part of an extent in [from, to), which must overlap it. */
function slice(extent: Extent, from: number, to: number): Extent {
  const start = Math.max(from, extent.fileOffset);
  const end = Math.min(to, extentEnd(extent));
  if (start === extent.fileOffset && end === extentEnd(extent)) return extent;
  return {
    fileOffset: start,
    length: end - start,
    sliceOffset: extent.sliceOffset + (start - extent.fileOffset),
    source: extent.source,
  };
}

/** The parts of the extents that lie in [from, to). */
export function extentsWithin(extents: readonly Extent[], from: number, to: number): Extent[] {
  const within: Extent[] = [];
  for (const extent of extents) {
    if (extent.fileOffset < to && extentEnd(extent) > from) within.push(slice(extent, from, to));
  }
  return within;
}

/** The extents with [from, to) replaced by `replacement` (which lies within it; empty: a hole). */
export function replaceExtents(
  extents: readonly Extent[],
  from: number,
  to: number,
  replacement: readonly Extent[],
): Extent[] {
  const result: Extent[] = [];
  for (const extent of extents) if (extent.fileOffset < from) result.push(slice(extent, extent.fileOffset, from));
  result.push(...replacement);
  for (const extent of extents) if (extentEnd(extent) > to) result.push(slice(extent, to, extentEnd(extent)));
  return result;
}

/** Bytes of the file that the extents hold: what st_blocks counts. */
export function extentBytes(extents: readonly Extent[]): number {
  let bytes = 0;
  for (const extent of extents) bytes += extent.length;
  return bytes;
}
