/**
 * What a gzip file holds, piece by piece: of one or of several members (RFC 1952), in memory bounded by a chunk, whatever it expands to.
 *
 * Failure: everything that could be read before the damage comes first, then a GzipError is thrown.
 */
import { crc32c } from '@node-rs/crc32';
import type { FileHandle } from 'node:fs/promises';
import { createGunzip } from 'node:zlib';
import { describeError, systemCode } from '../../../lib/errors.ts';
import { Marks } from './file-marks.ts';
import { bytesAt, knownBy, MARK_BYTES, type FilePosition, type MarkedOffset } from './tailed-file.ts';

const PIECE_BYTES = [65_536, 1024, 1] as const;
const OUTPUT_BYTES = 256 * 1024;
const GZIP = Buffer.from([0x1f, 0x8b]);
/** What logrotate may be told to use in its place. */
const OTHERS = [
  { name: 'zstd', magic: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]) },
  { name: 'xz', magic: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a]) },
  { name: 'bzip2', magic: Buffer.from('BZh') },
];

export async function compressionOf(handle: FileHandle): Promise<string | null> {
  return compressionIn(await bytesAt(handle, 0, 8));
}

/** By the first bytes of a file; null when it is not compressed. */
export function compressionIn(bytes: Buffer): string | null {
  const begins = (magic: Buffer): boolean => bytes.subarray(0, magic.length).equals(magic);
  return begins(GZIP) ? 'gzip' : (OTHERS.find(({ magic }) => begins(magic))?.name ?? null);
}

export class GzipError extends Error {
  /** It ends in the middle, and all of it was read; else its bytes are wrong somewhere. */
  readonly isCutOff: boolean;

  constructor(cause: unknown) {
    super(`the gzip file is damaged or cut off: ${describeError(cause)}`, { cause });
    this.isCutOff = systemCode(cause) === 'Z_BUF_ERROR';
  }
}

/** Throws GzipError, and what the file system refuses. */
export async function* gzipContent(handle: FileHandle): AsyncGenerator<Buffer, void> {
  let given = 0;
  // zlib gives out nothing of the piece of input in which it finds an error. So that piece is fed again in smaller ones.
  const starts: number[] = [];
  for (;;) {
    const input = { pieceStart: 0, starts };
    let skipped = 0;
    try {
      for await (const chunk of inflated(handle, input)) {
        const rest = chunk.subarray(Math.min(chunk.length, given - skipped));
        skipped += chunk.length - rest.length;
        if (rest.length === 0) continue;
        given += rest.length;
        skipped += rest.length;
        yield rest;
      }
      return;
    } catch (error) {
      const isExact = starts.length === PIECE_BYTES.length - 1;
      if (!(error instanceof GzipError) || error.isCutOff || isExact) throw error;
      starts.push(input.pieceStart);
    }
  }
}

/** From each of the `starts` on, pieces are smaller, for the length of one as they were. `pieceStart` says where the last one began. */
async function* inflated(
  handle: FileHandle,
  input: { pieceStart: number; readonly starts: readonly number[] },
): AsyncGenerator<Buffer, void> {
  const [first, second] = [input.starts[0] ?? Infinity, input.starts[1] ?? Infinity];
  const pieceBytesAt = (offset: number): number =>
    offset >= second && offset < second + PIECE_BYTES[1]
      ? PIECE_BYTES[2]
      : offset >= first && offset < first + PIECE_BYTES[0]
        ? PIECE_BYTES[1]
        : PIECE_BYTES[0];
  let offset = 0;
  const gunzip = createGunzip({ chunkSize: OUTPUT_BYTES });
  let failure: unknown;
  let isEnded = false;
  let isHungry = true;
  let wake = (): void => undefined;
  gunzip.on('readable', () => wake());
  gunzip.on('end', () => {
    isEnded = true;
    wake();
  });
  gunzip.on('error', (error) => {
    failure = error;
    wake();
  });
  try {
    while (!isEnded) {
      // A stream without an encoding gives buffers.
      const chunk = gunzip.read() as Buffer | null;
      if (chunk !== null) yield chunk;
      else if (failure !== undefined) throw new GzipError(failure);
      else if (isHungry) {
        isHungry = false;
        input.pieceStart = offset;
        const bytes = await bytesAt(handle, offset, pieceBytesAt(offset));
        offset += bytes.length;
        if (bytes.length === 0) gunzip.end();
        else {
          gunzip.write(bytes, () => {
            isHungry = true;
            wake();
          });
        }
      } else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    gunzip.destroy();
  }
}

export interface Match<K> {
  /** Whose position lies in this content, the furthest of them; null when there is none. */
  readonly key: K | null;
  /** The content ends by damage in front of a position that may lie in it, by the marks of its beginning. */
  readonly isShort: boolean;
}

/**
 * Which of the positions, taken in files that were not compressed, lie in the content of a gzip file. Reads no further than the last of those
 * whose beginning is that of this content. Nothing that was found counts when the signal fired.
 */
export async function matchContent<K>(
  handle: FileHandle,
  positions: Iterable<readonly [K, FilePosition]>,
  signal: AbortSignal,
): Promise<Match<K>> {
  // A position without marks says nothing about a content.
  let open = [...positions]
    .map(([of, position]): [K, MarkedOffset] => [of, knownBy(position)])
    .filter(([, { tail }]) => tail.bytes > 0)
    .sort(([, a], [, b]) => a.offset - b.offset);
  let key: K | null = null;
  const marks = Marks.ofBeginning();
  let offset = 0;
  const isSameBeginning = ([, { head, offset: end }]: readonly [K, MarkedOffset]): boolean =>
    head.crc === marks.head(end).crc;
  if (open.length === 0) return { key, isShort: false };
  try {
    for await (const chunk of gzipContent(handle)) {
      marks.push(chunk);
      offset += chunk.length;
      while (open[0] !== undefined && open[0][1].offset <= offset) {
        const [candidate, position] = open[0];
        if (isSameBeginning(open[0]) && marks.tail(position.offset).crc === position.tail.crc) key = candidate;
        open = open.slice(1);
      }
      marks.keep(offset);
      if (offset >= MARK_BYTES) open = open.filter(isSameBeginning);
      if (open.length === 0 || signal.aborted) break;
    }
  } catch (error) {
    if (!(error instanceof GzipError)) throw error;
    return { key, isShort: offset >= MARK_BYTES && open.length > 0 };
  }
  return { key, isShort: false };
}

export interface ContentEnd {
  readonly end: MarkedOffset;
  /** False: it is damaged or cut off behind that. */
  readonly isWhole: boolean;
}

/** The length of a content and the marks at its end. */
export async function contentEnd(handle: FileHandle): Promise<ContentEnd> {
  const marks = Marks.ofBeginning();
  let offset = 0;
  let isWhole = true;
  try {
    for await (const chunk of gzipContent(handle)) {
      marks.push(chunk);
      offset += chunk.length;
      marks.keep(offset);
    }
  } catch (error) {
    if (!(error instanceof GzipError)) throw error;
    isWhole = false;
  }
  return { end: marks.end(offset), isWhole };
}

/** Of a compressed file whose content was read to its end: its length, and its last bytes, which hold the checksum of the content. */
export async function endOf(handle: FileHandle): Promise<NonNullable<FilePosition['ended']>> {
  const { size } = await handle.stat();
  const last = await bytesAt(handle, Math.max(0, size - MARK_BYTES), MARK_BYTES);
  return { bytes: size, crc: crc32c(last) };
}
