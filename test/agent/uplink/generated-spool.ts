import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { PenstockError } from '../../../lib/errors.ts';
import { placeOf } from './place-of.ts';
import type { SpoolEntry, SpoolGap, SpoolReader } from '../../../agent/spool/spool-reader.ts';

export const SENSORS = 7;
export const IDENTITY = { agent: 'edge-7', incarnation: 'inc-1' };

/**
 * A spool whose readings follow from their sequence numbers, so that it "survives" a crash without being written; its
 * acknowledgement and its length lie in files. Reading n of sensor n % SENSORS has the value n.
 */
export class GeneratedSpool implements SpoolReader {
  readonly #topic: string;
  readonly #path: string;
  readonly #special: ReadonlyMap<bigint, Partial<SpoolEntry>>;
  readonly #persistEvery: bigint;
  #last: bigint;
  #acknowledged: bigint;
  #persisted: bigint;
  readonly #firstOfRun: bigint;
  #waiting: (() => void)[] = [];
  /** Whether the readings of this run arrive at the moment they are read. */
  arrivesNow = false;
  runsForMs = Infinity;
  readonly ranges: [bigint, bigint][] = [];
  readonly gaps: SpoolGap[] = [];

  constructor(
    topic: string,
    path: string,
    last: number,
    special = new Map<bigint, Partial<SpoolEntry>>(),
    /** Acknowledgements become durable only when they are that far ahead. */
    persistEvery = 1n,
  ) {
    this.#persistEvery = persistEvery;
    this.#topic = topic;
    this.#path = path;
    const stored = readNumber(`${path}.last`);
    this.#last = stored > BigInt(last) ? stored : BigInt(last);
    this.#firstOfRun = stored === 0n ? 1n : this.#last + 1n;
    this.#special = special;
    this.#acknowledged = this.#persisted = readNumber(path);
  }

  grow(count: number): void {
    this.#last += BigInt(count);
    replaceNumber(`${this.#path}.last`, this.#last);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  runningMs(): number {
    return this.runsForMs;
  }

  topics(): readonly string[] {
    return this.#last > this.#acknowledged ? [this.#topic] : [];
  }

  read(_topic: string, afterSeq: bigint, maxBytes: number): readonly SpoolEntry[] {
    const entries: SpoolEntry[] = [];
    for (let seq = afterSeq + 1n; seq <= this.#last && entries.length * 40 < maxBytes; seq++) {
      const special = this.#special.get(seq);
      const key = Buffer.from(`sensor-${seq % BigInt(SENSORS)}`);
      const value = Buffer.from(String(seq));
      const entry = {
        kind: 'reading',
        topic: this.#topic,
        ...IDENTITY,
        seq,
        key,
        value,
        eventUs: 1_700_000_000_000_000 + Number(seq),
        arrivalUs: seq >= this.#firstOfRun && this.arrivesNow ? Date.now() * 1000 : 1_700_000_000_000_500 + Number(seq),
        priority: 0,
        replayed: false,
        ...special,
      } as SpoolEntry; // The overrides of a test decide which kind it is.
      if (entry.kind === 'gap') seq = entry.toSeq;
      entries.push(entry.kind === 'reading' ? { ...entry, place: placeOf(entry.key, entry.value) } : entry);
    }
    return entries;
  }

  done(): void {
    // It keeps nothing.
  }

  acknowledge(_topic: string, uptoSeq: bigint): void {
    if (uptoSeq <= this.#acknowledged)
      throw new Error(`acknowledgement goes back from ${this.#acknowledged} to ${uptoSeq}`);
    this.#acknowledged = uptoSeq;
    if (uptoSeq < this.#persisted + this.#persistEvery) return;
    replaceNumber(this.#path, uptoSeq);
    this.#persisted = uptoSeq;
  }

  /** Never becomes durable: after a crash the readings are handed out again. */
  acknowledgeRange(_topic: string, fromSeq: bigint, toSeq: bigint): void {
    if (fromSeq <= this.#acknowledged || toSeq > this.#last) throw new Error(`no such range: ${fromSeq} to ${toSeq}`);
    this.ranges.push([fromSeq, toSeq]);
  }

  recordGap(gap: SpoolGap): Promise<void> {
    this.gaps.push(gap);
    return Promise.resolve();
  }

  firstOfRun(_topic: string): bigint {
    return this.#firstOfRun;
  }

  durablyAcknowledged(_topic: string): bigint {
    return this.#persisted;
  }

  lastSeq(_topic: string): bigint {
    return this.#last;
  }

  async wait(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push(resolve);
      signal.addEventListener('abort', () => reject(new PenstockError('aborted', 'the wait was aborted')));
    });
  }
}

function readNumber(path: string): bigint {
  try {
    return BigInt(readFileSync(path, 'utf8'));
  } catch {
    return 0n;
  }
}

function replaceNumber(path: string, value: bigint): void {
  writeFileSync(`${path}.new`, String(value));
  renameSync(`${path}.new`, path);
}
