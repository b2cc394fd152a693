/**
 * Taps: a look at the readings of a running agent, as NDJSON, before its transforms (`in`) or as they go into the spool (`out`).
 *
 * Invariants: a tap never holds the agent up. What its reader does not take in time is skipped and counted in the next line.
 * Limits: TAPS_MAX at a time; WAITING_BYTES_MAX in memory of each; VALUE_CHARS_MAX of a value.
 */
import { PenstockError } from '../lib/errors.ts';
import type { NewReading } from './spool/frame.ts';
import type { Readings } from './spool/packed-readings.ts';
import { textOf } from './transforms/draft.ts';

const TAPS_MAX = 4;
const WAITING_BYTES_MAX = 256 * 1024;
const VALUE_CHARS_MAX = 4096;

export type TapStage = 'in' | 'out';

interface Sink {
  /** Bytes that are written and not taken. */
  readonly writableLength: number;
  write(text: string): unknown;
}

interface Tap {
  readonly stage: TapStage;
  /** null: all. */
  readonly topic: string | null;
  readonly sink: Sink;
  skipped: number;
}

export class Taps {
  readonly #taps = new Set<Tap>();

  /** Returns what closes it. Throws `full` when there are enough. */
  open(stage: TapStage, topic: string | null, sink: Sink): () => void {
    if (this.#taps.size >= TAPS_MAX) throw new PenstockError('full', `${TAPS_MAX} taps are open already`);
    const tap = { stage, topic, sink, skipped: 0 };
    this.#taps.add(tap);
    return () => void this.#taps.delete(tap);
  }

  show(stage: TapStage, readings: Readings): void {
    for (const tap of this.#taps) {
      if (tap.stage === stage) for (const reading of readings) showOn(tap, reading);
    }
  }
}

function showOn(tap: Tap, { topic, key, priority, eventUs, value }: NewReading): void {
  if (tap.topic !== null && tap.topic !== topic) return;
  if (tap.sink.writableLength > WAITING_BYTES_MAX) {
    tap.skipped += 1;
    return;
  }
  const skipped = tap.skipped === 0 ? {} : { skipped: tap.skipped };
  tap.skipped = 0;
  const text = textOf(value).slice(0, VALUE_CHARS_MAX);
  tap.sink.write(`${JSON.stringify({ topic, sensor: key, priority, eventUs, value: text, ...skipped })}\n`);
}
