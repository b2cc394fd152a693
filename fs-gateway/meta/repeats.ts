/**
 * Which requests of this mount were applied: a ring of records, one written by every change that carries an operation id. When a
 * worker is killed between its commit and the answer, the kernel sends the request again to the next worker, which finds it here:
 * without it a repeated unlink would report ENOENT for its own success. (The engine's own ring belongs to the dead worker's session.)
 *
 * Commits of staged files have a ring of their own behind that (slots SLOTS to 2 * SLOTS): after a power cut it tells which promises are kept, and
 * requests of other programs must not write over that (data/staging.ts).
 *
 * Record {v}q:<mount id> <slot>:  varint inode that the change made (0: none), latin1 operation, CRC32C.
 * Limits: SLOTS requests, more than a FUSE device has in flight (max_background 64 and what the programs' threads wait for). SLOTS commits.
 */
import type { Key, MetaEngine, ScanPage } from '../../lib/meta/engine.ts';
import { ByteReader, ByteWriter } from '../../lib/volume/bytes.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

const SLOTS = 1024;
/** With which the operations begin that are commits of staged files. */
export const FLUSH_OPERATION = 'append';

export class Repeats {
  readonly #keys: VolumeKeys;
  readonly #mountId: string;
  /** What earlier workers of the mount applied: operation -> inode made. */
  readonly #applied = new Map<string, number>();
  readonly #writer = new ByteWriter();
  /** In each ring. */
  #requests = 0;
  #flushes = 0;

  constructor(keys: VolumeKeys, mountId: string) {
    this.#keys = keys;
    this.#mountId = mountId;
  }

  async load(engine: MetaEngine): Promise<void> {
    const bucket = this.#keys.operations(this.#mountId);
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: ScanPage = await engine.scan(bucket, cursor, SLOTS);
      for (const [slot, { value }] of page.entries) {
        const reader = new ByteReader(value, `operation record ${slot} of mount ${this.#mountId}`);
        const ino = reader.varint();
        this.#applied.set(reader.latin1(), ino);
        // Where the newest is is not known; any start is right, since only what is told above matters, and that was read just now.
        const number = Number(slot);
        if (number < SLOTS) this.#requests = Math.max(this.#requests, number + 1);
        else this.#flushes = Math.max(this.#flushes, number - SLOTS + 1);
      }
      cursor = page.cursor;
    }
  }

  /** The inode that the operation made (0: none); undefined when no earlier worker applied it. */
  applied(operation: string): number | undefined {
    return this.#applied.size === 0 ? undefined : this.#applied.get(operation);
  }

  /** The record to write together with a change. */
  record(operation: string, ino: number): { readonly key: Key; readonly value: Buffer } {
    const slot = operation.startsWith(`${FLUSH_OPERATION} `)
      ? SLOTS + (this.#flushes++ % SLOTS)
      : this.#requests++ % SLOTS;
    return {
      key: { bucket: this.#keys.operations(this.#mountId), field: String(slot) },
      value: this.#writer.reset().varint(ino).latin1(operation).finish(),
    };
  }
}
