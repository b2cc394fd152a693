/**
 * Readings on their way into a module and out of it; docs/WASM.md describes the same for those who write modules. Integers are little-endian.
 *
 *   input    0  u32  number of readings
 *            4       readings, one behind the other:
 *   reading  0  i64  event time, microseconds since the epoch
 *            8  u32  bytes of the sensor id; 0xffffffff: none
 *           12  u32  bytes of the value
 *           16       sensor id, value (JSON), both UTF-8
 *
 *   output       records to its end:
 *   record   0  u32  the reading that it comes from, from 0; never smaller than that of the record before
 *            4  u32  kind: 0 as it came, 1 with another value, 2 for the quarantine
 *            8  u32  bytes of the text; 0 for kind 0
 *           12       the value (a JSON object) or the reason, UTF-8
 *
 * A reading without a record is dropped; one with several becomes several.
 */
import { PenstockError } from '../../../lib/errors.ts';
import type { NewReading } from '../../spool/frame.ts';

const READING_HEADER_BYTES = 16;
const RECORD_HEADER_BYTES = 12;
const NO_SENSOR = 0xffff_ffff;
/** Far more than a batch has readings: a module that multiplies them without end must not fill the agent's memory. */
const RECORDS_MAX = 100_000;

export const AS_IT_CAME = 0;
export const ANOTHER_VALUE = 1;
export const REFUSED = 2;

export interface OutputRecord {
  readonly index: number;
  readonly kind: number;
  readonly text: Buffer;
}

export function encodeInput(readings: readonly NewReading[]): Buffer {
  const parts = readings.map(({ key, value, eventUs }) => ({
    eventUs,
    key: key === null ? null : Buffer.from(key),
    value: typeof value === 'string' ? Buffer.from(value) : value,
  }));
  const bytes = parts.reduce(
    (sum, { key, value }) => sum + READING_HEADER_BYTES + (key?.length ?? 0) + value.length,
    4,
  );
  const input = Buffer.allocUnsafeSlow(bytes);
  let at = input.writeUInt32LE(parts.length, 0);
  for (const { eventUs, key, value } of parts) {
    at = input.writeBigInt64LE(BigInt(eventUs), at);
    at = input.writeUInt32LE(key?.length ?? NO_SENSOR, at);
    at = input.writeUInt32LE(value.length, at);
    if (key !== null) at += key.copy(input, at);
    input.set(value, at);
    at += value.length;
  }
  return input;
}

/** `count` readings went in. Texts are views into `output`. Throws `corrupt` when it is not as described above. */
export function decodeOutput(output: Buffer, count: number): OutputRecord[] {
  const records: OutputRecord[] = [];
  let before = 0;
  for (let at = 0; at < output.length;) {
    const start = at + RECORD_HEADER_BYTES;
    if (start > output.length) throw damaged(at, 'is cut off');
    const index = output.readUInt32LE(at);
    const kind = output.readUInt32LE(at + 4);
    const end = start + output.readUInt32LE(at + 8);
    if (index >= count) throw damaged(at, `is of reading ${index}, there were ${count}`);
    if (index < before) throw damaged(at, `is of reading ${index}, behind one of ${before}`);
    if (kind > REFUSED) throw damaged(at, `has the kind ${kind}`);
    if (end > output.length) throw damaged(at, 'is cut off');
    if (records.length >= RECORDS_MAX) throw damaged(at, `is more than the ${RECORDS_MAX} that one call may give`);
    records.push({ index, kind, text: output.subarray(start, end) });
    before = index;
    at = end;
  }
  return records;
}

function damaged(at: number, what: string): PenstockError {
  return new PenstockError('corrupt', `the module's output is wrong: the record at byte ${at} ${what}`);
}
