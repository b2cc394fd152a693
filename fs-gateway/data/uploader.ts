/**
 * Uploads staged ranges: cut at block boundaries into pieces, pieces packed into objects of at most one block, several objects at a time.
 *
 * Invariants: `upload` returns when every object is durable in the store; only then may metadata refer to its pieces. Object ids are
 * never used twice, so an object is written once. Failure: objects without a reference stay behind; gc removes them.
 */
import { crc32c } from '@node-rs/crc32';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import type { BlockReader } from './block-reader.ts';
import { compressPiece } from './compression.ts';
import { objectKey, ownPiece } from './pieces.ts';
import { Slots } from './slots.ts';

/** Uploads at a time, over all files: each holds one block in memory. */
const UPLOADS_MAX = 8;

export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

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
  /** For statistics: what was put into the store, and by how much compression made it less. */
  uploadedBytes = 0;
  savedBytes = 0;

  constructor(options: UploaderOptions) {
    this.#options = options;
  }

  /** `load` fills a buffer with the file's bytes at an offset. Returns extents in the order of the ranges. */
  async upload(
    ranges: readonly ByteRange[],
    load: (offset: number, target: Buffer) => void | Promise<void>,
  ): Promise<Extent[]> {
    const objects = pack(ranges, this.#options.blockSize);
    const uploaded = await Promise.all(objects.map((pieces) => this.#slots.run(() => this.#put(pieces, load))));
    return uploaded.flat();
  }

  async #put(
    pieces: readonly ByteRange[],
    load: (offset: number, target: Buffer) => void | Promise<void>,
  ): Promise<Extent[]> {
    const { store, reader, volumeId, compression } = this.#options;
    const objectId = await this.#options.newObjectId();
    const key = objectKey(volumeId, objectId);
    const extents: Extent[] = [];
    const bodies: Buffer[] = [];
    const remember: (() => void)[] = [];
    let pieceOffset = 0;
    let contentBytes = 0;
    let objectCrc = 0;
    for (const { start, end } of pieces) {
      const content = Buffer.allocUnsafe(end - start);
      await load(start, content);
      const crc = crc32c(content);
      const body = compression === 'zstd' ? await compressPiece(content) : content;
      const [pieceBytes, storedBytes] = [content.length, body.length];
      const source = { kind: 'own', objectId, pieceOffset, pieceBytes, storedBytes, crc } as const;
      extents.push({ fileOffset: start, length: pieceBytes, sliceOffset: 0, source });
      // Nearly every object is one piece as it is.
      objectCrc = body === content && bodies.length === 0 ? crc : crc32c(body, objectCrc);
      bodies.push(body);
      remember.push(() => reader.remember(ownPiece(volumeId, source), content));
      pieceOffset += storedBytes;
      contentBytes += pieceBytes;
    }
    await store.put(key, bodies, { crc32c: objectCrc });
    this.uploadedBytes += pieceOffset;
    this.savedBytes += contentBytes - pieceOffset;
    for (const keep of remember) keep();
    return extents;
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
