/**
 * Which requests of this mount were applied: a ring of records, one written by every change that carries an operation id. When a
 * worker is killed between its commit and the answer, the kernel sends the request again to the next worker, which finds it here:
 * without it a repeated unlink would report ENOENT for its own success. (The engine's own ring belongs to the dead worker's session.)
 *
 * Commits of staged files have a ring of their own behind that (slots SLOTS to 2 * SLOTS): after a power cut it tells which promises are kept, and
 * requests of other programs must not write over that (data/staging.ts).
 *
 * Record {v}q:<mount id> <slot>:  varint inode that the change made (0: none), latin1 operation, varint number, CRC32C.
 *   number: how many were begun in the ring before it; the slot is its rest. The next worker goes on behind the highest, over the oldest. What an
 *   older version wrote ends before it.
 *
 * Invariant: a change whose answer was lost is looked up when the next session begins (`settle`), so before others have written over its record.
 * Limits: SLOTS requests, more than a FUSE device has in flight (max_background 64 and what the programs' threads wait for). SLOTS commits. What is known
 *   of earlier workers and of lost answers stays in memory: two rings, and as many commits as were under way when sessions were lost.
 */
import type { Key, MetaEngine, ScanPage } from '../../lib/meta/engine.ts';
import { ByteReader, ByteWriter } from '../../lib/volume/bytes.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

const SLOTS = 1024;
/** With which the operations begin that are commits of staged files. */
export const FLUSH_OPERATION = 'append';

/** The record of one try of a change. */
export interface Try {
  readonly operation: string;
  readonly made: number;
  readonly key: Key;
  readonly value: Buffer;
}

class Ring {
  readonly #first: number;
  #next = 0;

  constructor(first: number) {
    this.#first = first;
  }

  wasUsed(number: number): void {
    this.#next = Math.max(this.#next, number + 1);
  }

  take(): { readonly slot: number; readonly number: number } {
    const number = this.#next++;
    return { slot: this.#first + (number % SLOTS), number };
  }
}

export class Repeats {
  readonly #keys: VolumeKeys;
  readonly #mountId: string;
  /** What earlier workers of the mount applied, and commits of this one whose answer was lost: operation -> inode made. */
  readonly #applied = new Map<string, number>();
  /** Sent to an engine, and not answered: nobody has looked yet whether they were applied. */
  readonly #unsettled = new Map<string, { readonly record: Try; readonly engine: MetaEngine }>();
  readonly #writer = new ByteWriter();
  readonly #requests = new Ring(0);
  readonly #flushes = new Ring(SLOTS);

  constructor(keys: VolumeKeys, mountId: string) {
    this.#keys = keys;
    this.#mountId = mountId;
  }

  async load(engine: MetaEngine): Promise<void> {
    const bucket = this.#keys.operations(this.#mountId);
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: ScanPage = await engine.scan(bucket, cursor, SLOTS);
      for (const [field, { value }] of page.entries) {
        const reader = new ByteReader(value, `operation record ${field} of mount ${this.#mountId}`);
        const made = reader.varint();
        const operation = reader.latin1();
        this.#applied.set(operation, made);
        this.#ringOf(operation).wasUsed(reader.isAtEnd ? Number(field) % SLOTS : reader.varint());
      }
      cursor = page.cursor;
    }
  }

  /** The inode that the operation made (0: none); undefined when nothing is known of one that was applied. */
  applied(operation: string): number | undefined {
    return this.#applied.size === 0 ? undefined : this.#applied.get(operation);
  }

  #ringOf(operation: string): Ring {
    return operation.startsWith(`${FLUSH_OPERATION} `) ? this.#flushes : this.#requests;
  }

  /** The record to write together with a change. */
  next(operation: string, made: number): Try {
    const { slot, number } = this.#ringOf(operation).take();
    return {
      operation,
      made,
      key: { bucket: this.#keys.operations(this.#mountId), field: String(slot) },
      value: this.#writer.reset().varint(made).latin1(operation).varint(number).finish(),
    };
  }

  /** The answer was lost. Nobody tries it again before it is settled. */
  unheard(record: Try, engine: MetaEngine): void {
    this.#unsettled.set(record.operation, { record, engine });
  }

  isUnsettled(operation: string): boolean {
    return this.#unsettled.has(operation);
  }

  /** Finds out what became of changes whose answer was lost: under another session than theirs, which is ended. */
  async settle(engine: MetaEngine): Promise<void> {
    const records = [...this.#unsettled.values()].filter((sent) => sent.engine !== engine).map(({ record }) => record);
    if (records.length === 0) return;
    const found = await engine.read(records.map(({ key }) => key));
    for (const [index, { operation, made, value }] of records.entries()) {
      if (found[index]?.value.equals(value) === true) this.#applied.set(operation, made);
      this.#unsettled.delete(operation);
    }
  }
}
