/**
 * What is known of a whole file in the cache directory: of which content it is the copy, and the hashes of its blocks.
 *
 *   u8      format (1, or 2 of a file with holes)
 *   latin1  boot id of the machine when the file was synced
 *   i64     mtime of the local file, ns: a later one tells of writes
 *   varint  size
 *   u8      1: bytes follow (content that is kept in the metadata), 0: extents
 *   bytes   content, or the extents (extents.ts)
 *   1: bytes   hashes of all blocks (block-hashes.ts)
 *   2: varint  number of chunks that are no holes, each: varint its number, bytes its hashes
 *   u32     CRC32C of all before
 */
import { createHash } from 'node:crypto';
import { ByteReader, ByteWriter } from '../../lib/volume/bytes.ts';
import { extentsWithin, readExtents, writeExtents } from '../../lib/volume/extents.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { blockCount, BlockHashes, HASH_BLOCK_BYTES } from './block-hashes.ts';
import { Overlay } from './overlay.ts';

/** All bytes of one version of a file: in immutable objects, or here where the metadata keeps them; what neither has is zeros. */
export interface FileContent {
  readonly size: number;
  readonly extents: readonly Extent[];
  readonly inline: Buffer | null;
}

export interface WholeRecord {
  readonly content: FileContent;
  readonly hashes: BlockHashes;
  readonly bootId: string;
  readonly mtimeNs: bigint;
}

const FORMAT = 1;
const FORMAT_SPARSE = 2;
const scratch = new ByteWriter();

function writeContent(writer: ByteWriter, { size, extents, inline }: FileContent): void {
  writer.varint(size).u8(inline === null ? 0 : 1);
  if (inline === null) writeExtents(writer, extents);
  else writer.bytes(inline);
}

/** The same for the same bytes in the same objects; objects never change. */
export function contentKey(content: FileContent): string {
  writeContent(scratch.reset(), content);
  return createHash('sha256').update(scratch.finish()).digest('latin1');
}

export function encodeWhole({ content, hashes, bootId, mtimeNs }: WholeRecord): Buffer {
  const list = hashes.toList();
  scratch
    .reset()
    .u8(list === null ? FORMAT_SPARSE : FORMAT)
    .latin1(bootId)
    .i64(mtimeNs);
  writeContent(scratch, content);
  if (list !== null) return scratch.bytes(list).finish();
  scratch.varint(hashes.chunks.size);
  for (const [number, chunk] of hashes.chunks) scratch.varint(number).bytes(chunk);
  return scratch.finish();
}

/** Throws `corrupt`. */
export function decodeWhole(record: Buffer, name: string): WholeRecord {
  const reader = new ByteReader(record, name);
  const format = reader.u8();
  if (format !== FORMAT && format !== FORMAT_SPARSE) throw reader.damaged(`its format is ${format}`);
  const bootId = reader.bytes().toString('latin1');
  const mtimeNs = reader.i64();
  const size = reader.varint();
  const kept = reader.u8() === 1;
  const inline = kept ? Buffer.from(reader.bytes()) : null;
  const extents = kept ? [] : readExtents(reader);
  const hashes = format === FORMAT ? BlockHashes.fromList(size, reader.bytes()) : readChunks(reader, size);
  reader.end();
  return { content: { size, extents, inline }, hashes, bootId, mtimeNs };
}

function readChunks(reader: ByteReader, size: number): BlockHashes {
  const chunks = new Map<number, Uint8Array>();
  for (let left = reader.varint(); left > 0; left--) {
    const number = reader.varint();
    chunks.set(number, Buffer.from(reader.bytes()));
  }
  return new BlockHashes(size, chunks);
}

/** Both have [from, to) in the same objects. */
export function sameBytes(a: FileContent, b: FileContent, from: number, to: number): boolean {
  if (a.inline !== null || b.inline !== null || a.size < to) return false;
  const theirs = extentsWithin(b.extents, from, to);
  const ours = extentsWithin(a.extents, from, to);
  return ours.length === theirs.length && ours.every((extent, index) => isSameExtent(extent, theirs[index]));
}

function isSameExtent(a: Extent, b: Extent | undefined): boolean {
  if (b === undefined || a.fileOffset !== b.fileOffset || a.length !== b.length || a.sliceOffset !== b.sliceOffset)
    return false;
  if (a.source.kind === 'own') {
    return (
      b.source.kind === 'own' &&
      a.source.objectId === b.source.objectId &&
      a.source.pieceOffset === b.source.pieceOffset
    );
  }
  return b.source.kind === 'external' && a.source.key === b.source.key && a.source.etag === b.source.etag;
}

/** In order, the blocks of `committed` in which either may have more than zeros, or one of them ends. */
export function* blocksOf(base: FileContent, committed: FileContent): Generator<number> {
  const parts = new Overlay();
  for (const { size, extents, inline } of [base, committed]) {
    if (inline !== null) parts.set(0, size, 'data');
    else for (const { fileOffset, length } of extents) parts.set(fileOffset, fileOffset + length, 'data');
    if (size > 0) parts.set(size - 1, size, 'data');
  }
  let next = 0;
  for (const { start, end } of parts.within(0, committed.size)) {
    const first = Math.max(next, Math.floor(start / HASH_BLOCK_BYTES));
    for (next = first; next < blockCount(end); next++) yield next;
  }
}
