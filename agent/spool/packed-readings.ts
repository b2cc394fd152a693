/**
 * Readings of one topic and priority in the bytes of the frames in which they will be written (frame.ts). A source that reads thousands at a
 * time encodes each where it finds it, and no object stays of it: what lives until a batch is stored is copied by the garbage collector, which
 * cost more than all other work with a line of a file.
 *
 * For those who look at single readings (taps, rules, transforms) it gives them as objects, one at a time.
 *
 * Invariants: what is in it can be stored (`isSurelyFine`, or not refused); once it is handed over, nobody adds to it.
 */
import { PenstockError } from '../../lib/errors.ts';
import {
  isSurelyFine,
  READING_HEADER_BYTES,
  readingBytes,
  readInt64,
  ReadingsPayload,
  refusal,
  type NewReading,
} from './frame.ts';

/** Both have a `length`, and can be gone through. */
export type Readings = readonly NewReading[] | PackedReadings;

/** Throws `too-large` where one of them cannot be stored. */
export function assertCarried(readings: Readings): void {
  if (readings instanceof PackedReadings) return;
  for (const reading of readings) {
    const why = isSurelyFine(reading) ? null : refusal(reading);
    if (why !== null) throw new PenstockError('too-large', why);
  }
}

export class PackedReadings implements Iterable<NewReading> {
  readonly topic: string;
  readonly priority: number;
  /** Each is the payload of a frame; none is empty. */
  readonly payloads: ReadingsPayload[] = [];
  length = 0;
  #bytesExpected: number;

  /** `bytesExpected`: about as many as will come. */
  constructor(topic: string, priority: number, bytesExpected: number) {
    this.topic = topic;
    this.priority = priority;
    this.#bytesExpected = bytesExpected;
  }

  /** A reading of this topic and priority. */
  add(reading: NewReading): void {
    this.length += 1;
    if (this.payloads.at(-1)?.add(reading) !== true) this.#next().add(reading);
  }

  /** One whose key and value are bytes of `text`; `keyBytes` -1: no key. Times are microseconds since the epoch. */
  addPlaced(
    text: Buffer,
    keyStart: number,
    keyBytes: number,
    valueStart: number,
    valueBytes: number,
    eventUs: number,
    arrivalUs: number,
  ): void {
    this.length += 1;
    const last = this.payloads.at(-1);
    if (last?.addPlaced(text, keyStart, keyBytes, valueStart, valueBytes, eventUs, arrivalUs) === true) return;
    this.#next().addPlaced(text, keyStart, keyBytes, valueStart, valueBytes, eventUs, arrivalUs);
  }

  *[Symbol.iterator](): Generator<NewReading, void> {
    const { topic, priority } = this;
    for (const { payload } of this.payloads) {
      for (let at = 0; at < payload.length; at += readingBytes(payload, at)) {
        const keyStart = at + READING_HEADER_BYTES;
        const keyEnd = keyStart + Math.max(0, payload.readUInt16LE(at + 4) - 1);
        yield {
          topic,
          key: payload.readUInt16LE(at + 4) === 0 ? null : payload.toString('utf8', keyStart, keyEnd),
          value: payload.subarray(keyEnd, keyEnd + payload.readUInt32LE(at)),
          eventUs: readInt64(payload, at + 8),
          arrivalUs: readInt64(payload, at + 16),
          priority,
        };
      }
    }
  }

  #next(): ReadingsPayload {
    const payload = new ReadingsPayload(this.#bytesExpected);
    this.#bytesExpected -= payload.capacity;
    this.payloads.push(payload);
    return payload;
  }
}

/** -1 of none. */
export function highestPriorityOf(readings: Readings): number {
  if (readings instanceof PackedReadings) return readings.priority;
  return readings.reduce((highest, { priority }) => Math.max(highest, priority), -1);
}
