/**
 * Pieces: the units in which object bytes are fetched, verified and cached. An own piece is what was uploaded and checksummed at once
 * (at most the block size); an external object (a Parquet file of the lake, a published one) is cut into chunks of CHUNK_BYTES. Nothing of
 * ours vouches for a chunk as a whole, so a lone read in one may take a part of it, a piece of its own.
 */
import { createHash } from 'node:crypto';
import type { Extent, ExternalObject, OwnPiece } from '../../lib/volume/extents.ts';

/** Large enough for S3's throughput, small enough that a row group of a Parquet file does not fetch its neighbours. */
export const CHUNK_BYTES = 4 * 2 ** 20;
/** The kernel's largest request. Smaller parts are hardly faster to fetch (the latency is the same), and what is near is often read next. */
const PART_BYTES = 2 ** 20;

export interface Piece {
  /** Unique in the volume: the cache's file name. */
  readonly name: string;
  readonly objectKey: string;
  /** Null: an external object. */
  readonly objectId: number | null;
  /** Where it begins in the object, and how many bytes it has there: fewer than `bytes` where it is stored in zstd. */
  readonly offset: number;
  readonly storedBytes: number;
  /** Of its content. */
  readonly bytes: number;
  /** Null: an external object, which has no checksum of ours. */
  readonly crc: number | null;
  /** The whole object's size where it is known. */
  readonly objectBytes: number | null;
  /** Only of this version of the object; null: it has one only. */
  readonly etag: string | null;
}

/** A piece, and which of its bytes are which bytes of the file. */
export interface PieceSlice {
  readonly piece: Piece;
  readonly pieceOffset: number;
  readonly fileOffset: number;
  readonly length: number;
}

/** `<volume id>/blocks/<id mod 256>/<id>`: spread over prefixes, as S3 scales by prefix. */
export function objectKey(volumeId: string, objectId: number): string {
  return `${blocksPrefix(volumeId)}${(objectId % 256).toString(16).padStart(2, '0')}/${objectId}`;
}

/** Blocks of a volume, and backups of its metadata: none of them is a file of somebody else. */
const OWN_OBJECTS = /^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|backups)\//;

export function isOwnObject(key: string): boolean {
  return OWN_OBJECTS.test(key);
}

export function blocksPrefix(volumeId: string): string {
  return `${volumeId}/blocks/`;
}

/** The pieces that hold [from, to) of a file, as far as the extents reach; what is between them is zeros. */
export function piecesOf(volumeId: string, extents: readonly Extent[], from: number, to: number): PieceSlice[] {
  const slices: PieceSlice[] = [];
  for (const extent of extents) {
    const start = Math.max(from, extent.fileOffset);
    const end = Math.min(to, extent.fileOffset + extent.length);
    if (start >= end) continue;
    const { source } = extent;
    const inSource = extent.sliceOffset + (start - extent.fileOffset);
    if (source.kind === 'own') {
      const piece = ownPiece(volumeId, source);
      slices.push({ piece, pieceOffset: inSource, fileOffset: start, length: end - start });
      continue;
    }
    for (let at = inSource; at < inSource + (end - start);) {
      const piece = externalPiece(source, Math.floor(at / CHUNK_BYTES));
      const length = Math.min(piece.offset + piece.bytes, inSource + (end - start)) - at;
      slices.push({ piece, pieceOffset: at - piece.offset, fileOffset: start + (at - inSource), length });
      at += length;
    }
  }
  return slices;
}

export function ownPiece(volumeId: string, source: Omit<OwnPiece, 'kind'>): Piece {
  return {
    name: `${source.objectId}-${source.pieceOffset}`,
    objectKey: objectKey(volumeId, source.objectId),
    objectId: source.objectId,
    offset: source.pieceOffset,
    storedBytes: source.storedBytes,
    bytes: source.pieceBytes,
    crc: source.crc,
    objectBytes: null,
    etag: null,
  };
}

export function externalPiece({ key, objectBytes, etag }: Omit<ExternalObject, 'kind'>, chunk: number): Piece {
  const offset = chunk * CHUNK_BYTES;
  const bytes = Math.min(CHUNK_BYTES, objectBytes - offset);
  return {
    name: externalName(etag === undefined ? key : `${key}\0${etag}`, objectBytes, chunk),
    objectKey: key,
    objectId: null,
    offset,
    storedBytes: bytes,
    bytes,
    crc: null,
    objectBytes,
    etag: etag ?? null,
  };
}

export function isCompressed({ storedBytes, bytes }: Piece): boolean {
  return storedBytes < bytes;
}

/** Two chunks of one version of an object that follow each other, as one piece to be fetched into memory that is cut into both (arena.ts); else null. */
export function togetherWith(first: Piece, second: Piece): Piece | null {
  const bytes = 2 * CHUNK_BYTES;
  const isNext = second.offset === first.offset + CHUNK_BYTES && second.bytes === CHUNK_BYTES;
  const isSame =
    second.objectKey === first.objectKey && second.etag === first.etag && second.objectBytes === first.objectBytes;
  return isNext && isSame && first.objectId === null ? { ...first, storedBytes: bytes, bytes } : null;
}

let lastVersion = '';
let lastDigest = '';

/** The parts of an external chunk; none of what has to be fetched whole, or is no larger than a part. */
export function partsOf(piece: Piece): Piece[] {
  if (piece.objectId !== null || piece.bytes <= PART_BYTES) return [];
  return Array.from({ length: Math.ceil(piece.bytes / PART_BYTES) }, (_, part) => {
    const start = part * PART_BYTES;
    const bytes = Math.min(PART_BYTES, piece.bytes - start);
    return { ...piece, name: `${piece.name}-${part}`, offset: piece.offset + start, storedBytes: bytes, bytes };
  });
}

/** The same bytes from a part, if one has them all. */
export function inPart(slice: PieceSlice, parts: readonly Piece[]): PieceSlice | null {
  const start = Math.floor(slice.pieceOffset / PART_BYTES) * PART_BYTES;
  const part = parts[start / PART_BYTES];
  const pieceOffset = slice.pieceOffset - start;
  return part === undefined || pieceOffset + slice.length > part.bytes ? null : { ...slice, piece: part, pieceOffset };
}

function externalName(version: string, objectBytes: number, chunk: number): string {
  // Reads of one file come in a row, so the last digest is nearly always the wanted one.
  if (version !== lastVersion) {
    lastDigest = createHash('sha256').update(version).digest('hex').slice(0, 32);
    lastVersion = version;
  }
  return `x${lastDigest}-${objectBytes}-${chunk}`;
}
