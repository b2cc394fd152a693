/**
 * Blocks that programs are writing from their first byte to their last, in memory beside what is staged of them: a block that is full is uploaded from here, with
 * the checksum that was made on the way, and not read back from the cache directory. That was a sixth of the CPU of a large write.
 *
 * Invariants
 * - What is staged stays the truth, and is there before a write is gathered. A block is gathered by writes that each go on where the last one ended; any other
 *   change of its file drops it (`StagedFile.changes`), and it is uploaded from what is staged, as one that was never gathered.
 * - A block that was taken changes no more. What is written over it meanwhile drops its upload (early-blocks.ts).
 * Failure: memory only. The next worker knows nothing of it, and uploads what is staged.
 * Limits: the uploader's `lend`. The first block of a file is not gathered, as most files have no other one; and what nobody goes on with for IDLE_MS is dropped.
 */
import { crc32c } from '@node-rs/crc32';
import type { StagedFile } from './staged-file.ts';
import type { Gathered, Uploader } from './uploader.ts';

const IDLE_MS = 1000;

interface Gathering {
  readonly start: number;
  readonly memory: Buffer;
  bytes: number;
  crc: number;
  /** `StagedFile.changes` behind its last write. */
  changes: number;
  /** Since the last look. */
  isIdle: boolean;
}

export class Gatherings {
  readonly #uploader: Uploader;
  readonly #blockSize: number;
  readonly #ofFiles = new Map<StagedFile, Gathering>();
  #timer: NodeJS.Timeout | undefined;

  constructor(uploader: Uploader, blockSize: number) {
    this.#uploader = uploader;
    this.#blockSize = blockSize;
  }

  /** `data`, of one block, was staged at `offset` by the last change of the file. Returns the whole block when it is the end of one; the caller uploads it. */
  add(file: StagedFile, offset: number, data: Buffer): Gathered | undefined {
    const gathering = this.#continued(file, offset) ?? this.#begin(file, offset);
    if (gathering === undefined) return undefined;
    data.copy(gathering.memory, gathering.bytes);
    gathering.crc = crc32c(data, gathering.crc);
    gathering.bytes += data.length;
    gathering.changes = file.changes;
    gathering.isIdle = false;
    if (gathering.bytes < this.#blockSize) return undefined;
    this.#ofFiles.delete(file);
    return { memory: gathering.memory, crc: gathering.crc };
  }

  #continued(file: StagedFile, offset: number): Gathering | undefined {
    const gathering = this.#ofFiles.get(file);
    if (gathering === undefined) return undefined;
    if (offset === gathering.start + gathering.bytes && file.changes === gathering.changes + 1) return gathering;
    this.#drop(file, gathering);
    return undefined;
  }

  #begin(file: StagedFile, offset: number): Gathering | undefined {
    if (offset === 0 || offset % this.#blockSize !== 0) return undefined;
    const memory = this.#uploader.lend();
    if (memory === undefined) return undefined;
    const gathering = { start: offset, memory, bytes: 0, crc: 0, changes: file.changes, isIdle: false };
    this.#ofFiles.set(file, gathering);
    this.#timer ??= setInterval(() => this.#look(), IDLE_MS).unref();
    return gathering;
  }

  #drop(file: StagedFile, { memory }: Gathering): void {
    this.#ofFiles.delete(file);
    this.#uploader.giveBack(memory);
  }

  #look(): void {
    for (const [file, gathering] of this.#ofFiles) {
      if (gathering.isIdle) this.#drop(file, gathering);
      gathering.isIdle = true;
    }
    if (this.#ofFiles.size === 0) this.close();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
