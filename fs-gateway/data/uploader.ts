/**
 * Uploads staged ranges: cut at block boundaries into pieces, pieces packed into objects of at most one block, several objects at a time.
 *
 * Invariants: `upload` returns when every object is durable in the store; only then may metadata refer to its pieces. Object ids are
 * never used twice, so an object is written once. Memory is used again only behind a put that has succeeded: one that failed may still be sending.
 * Failure: objects without a reference stay behind; gc removes them.
 * Limits: UPLOADS_MAX at a time, and as many blocks of memory, beside LENT_MAX of blocks that are gathered (gathering.ts) or wait for their turn. Memory is given
 * back when nothing was uploaded for IDLE_MS.
 */
import { crc32c } from '@node-rs/crc32';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import type { BlockReader } from './block-reader.ts';
import { compressPiece } from './compression.ts';
import { objectKey, ownPiece } from './pieces.ts';
import type { Piece } from './pieces.ts';
import { Slots } from './slots.ts';

/** Uploads at a time, over all files: each holds one block in memory. */
const UPLOADS_MAX = 8;
const LENT_MAX = 4;
/** Longer than a program calculates between two files: with each 64 MiB that are new V8 looks for garbage, which takes as long as the upload of some blocks. */
const IDLE_MS = 10_000;

export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** A whole block in memory of `lend`. */
export interface Gathered {
  readonly memory: Buffer;
  readonly crc: number;
}

interface Content {
  /** In the file. */
  readonly start: number;
  readonly content: Buffer;
  readonly crc: number;
}

/** Fills a buffer with the file's bytes at an offset. */
type Load = (offset: number, target: Buffer) => void | Promise<void>;

export interface UploaderOptions {
  readonly store: ObjectStore;
  readonly reader: BlockReader;
  readonly volumeId: string;
  readonly blockSize: number;
  readonly compression: VolumeFormat['compression'];
  newObjectId(): number | Promise<number>;
}

export class Uploader {
  readonly #options: UploaderOptions;
  readonly #slots = new Slots(UPLOADS_MAX);
  /** Of a block each, used again: new ones for each would cost a page fault per 4 KiB, and have V8 look for garbage. */
  #free: Buffer[] = [];
  /** Not yet in an upload that has begun. */
  #lent = 0;
  #usedMs = 0;
  #idleTimer: NodeJS.Timeout | undefined;
  /** For statistics: what was put into the store, and by how much compression made it less. */
  uploadedBytes = 0;
  savedBytes = 0;

  constructor(options: UploaderOptions) {
    this.#options = options;
  }

  /** Returns extents in the order of the ranges. `isHere`: the bytes stay on this disk, so that readers here need no copy of them. */
  async upload(ranges: readonly ByteRange[], load: Load, isHere = false): Promise<Extent[]> {
    const objects = pack(ranges, this.#options.blockSize);
    const uploaded = await Promise.all(objects.map((pieces) => this.#slots.run(() => this.#put(pieces, load, isHere))));
    return uploaded.flat();
  }

  /** Memory for a block of which the bytes come one after another; undefined: enough is in use. It goes to `uploadGathered`, or is given back. */
  lend(): Buffer | undefined {
    if (this.#lent >= LENT_MAX) return undefined;
    this.#lent++;
    return this.#take(this.#options.blockSize);
  }

  giveBack(memory: Buffer): void {
    this.#lent--;
    this.#give(memory);
  }

  async uploadGathered(start: number, { memory, crc }: Gathered): Promise<Extent[]> {
    return this.#slots.run(() => {
      this.#lent--;
      return this.#putContents(memory, [{ start, content: memory, crc }], false);
    });
  }

  async #put(pieces: readonly ByteRange[], load: Load, isHere: boolean): Promise<Extent[]> {
    const memory = this.#take(pieces.reduce((sum, { start, end }) => sum + end - start, 0));
    const contents: Content[] = [];
    let at = 0;
    for (const { start, end } of pieces) {
      const content = memory.subarray(at, (at += end - start));
      await load(start, content);
      contents.push({ start, content, crc: crc32c(content) });
    }
    return this.#putContents(memory, contents, isHere);
  }

  /** One object. `memory` is what the contents are in. */
  async #putContents(memory: Buffer, contents: readonly Content[], isHere: boolean): Promise<Extent[]> {
    const { store, reader, volumeId, compression, blockSize } = this.#options;
    const objectId = await this.#options.newObjectId();
    const extents: Extent[] = [];
    const uploaded: (readonly [Piece, Buffer])[] = [];
    const bodies: Buffer[] = [];
    let pieceOffset = 0;
    let objectCrc = 0;
    for (const { start, content, crc } of contents) {
      const body = compression === 'zstd' ? await compressPiece(content) : content;
      const [pieceBytes, storedBytes] = [content.length, body.length];
      const source = { kind: 'own', objectId, pieceOffset, pieceBytes, storedBytes, crc } as const;
      extents.push({ fileOffset: start, length: pieceBytes, sliceOffset: 0, source });
      // Nearly every object is one piece as it is.
      objectCrc = body === content && bodies.length === 0 ? crc : crc32c(body, objectCrc);
      bodies.push(body);
      uploaded.push([ownPiece(volumeId, source), content]);
      pieceOffset += storedBytes;
    }
    await store.put(objectKey(volumeId, objectId), bodies, { crc32c: objectCrc });
    this.uploadedBytes += pieceOffset;
    this.savedBytes += contents.reduce((sum, { content }) => sum + content.length, -pieceOffset);
    // A block is one of many of its file: to copy them would cost as much as to upload them, and the kernel has the last ones in its pages.
    for (const [piece, content] of uploaded) reader.remember(piece, content, isHere || content.length === blockSize);
    this.#give(memory);
    return extents;
  }

  #take(bytes: number): Buffer {
    this.#usedMs = performance.now();
    const free = bytes === this.#options.blockSize ? this.#free.pop() : undefined;
    return free ?? Buffer.allocUnsafeSlow(bytes);
  }

  #give(memory: Buffer): void {
    if (memory.length !== this.#options.blockSize) return;
    this.#free.push(memory);
    this.#idleTimer ??= setInterval(() => this.#look(), IDLE_MS).unref();
  }

  /** Gives back memory that nobody has used for a while. */
  #look(): void {
    if (performance.now() - this.#usedMs < IDLE_MS) return;
    this.#free = [];
    clearInterval(this.#idleTimer);
    this.#idleTimer = undefined;
  }
}

/** Ranges cut at multiples of `blockSize` and gathered into objects of at most `blockSize` bytes. */
function pack(ranges: readonly ByteRange[], blockSize: number): ByteRange[][] {
  const objects: ByteRange[][] = [];
  let current: ByteRange[] = [];
  let bytes = 0;
  for (const range of ranges) {
    for (let start = range.start; start < range.end;) {
      const end = Math.min(range.end, (Math.floor(start / blockSize) + 1) * blockSize);
      if (bytes + (end - start) > blockSize && current.length > 0) {
        objects.push(current);
        current = [];
        bytes = 0;
      }
      current.push({ start, end });
      bytes += end - start;
      start = end;
    }
  }
  if (current.length > 0) objects.push(current);
  return objects;
}
