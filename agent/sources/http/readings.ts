/**
 * From the body of a request to its readings, all or none: the first input that is no reading refuses the whole request with its line,
 * because a client that repeats a corrected request must not have half of it taken before.
 */
import { setImmediate } from 'node:timers/promises';
import type { NewReading } from '../../spool/frame.ts';
import { isSurelyFine, refusal } from '../../spool/frame.ts';
import { isRejected, parseJson, type ReadingMapping } from '../reading-parser.ts';
import { isArray, splitArray, type ArrayElement } from './json-array.ts';
import { Refusal } from './refusal.ts';

export type BodyFormat = 'ndjson' | 'json';

/** A body of many tiny values takes far more memory as readings than as text. */
const READINGS_MAX = 100_000;
/** Other connections, sources and the uplink have their turn in between. */
const READINGS_PER_TURN = 1000;
const LF = 0x0a;
const CR = 0x0d;
const FORMATS: Readonly<Record<string, BodyFormat>> = {
  'application/json': 'json',
  'application/x-ndjson': 'ndjson',
  'application/ndjson': 'ndjson',
  'application/jsonl': 'ndjson',
  'application/x-jsonlines': 'ndjson',
};

/** Throws a Refusal. */
export function bodyFormat(contentType: string | undefined): BodyFormat {
  const expected = 'expected Content-Type application/json (an object or an array) or application/x-ndjson';
  const [type = '', ...parameters] = (contentType ?? '').toLowerCase().split(';');
  const format = FORMATS[type.trim()];
  if (format === undefined) throw new Refusal(415, `Content-Type '${contentType ?? ''}' is not supported: ${expected}`);
  const charset = parameters.map((text) => /^\s*charset="?([^"]*)"?\s*$/.exec(text)?.[1]).find(Boolean);
  if (charset !== undefined && charset !== 'utf-8') {
    throw new Refusal(415, `charset '${charset}' is not supported: expected utf-8`);
  }
  return format;
}

/** Throws a Refusal. */
export async function readingsIn(
  body: Buffer,
  format: BodyFormat,
  mapping: ReadingMapping,
  arrivalUs: number,
): Promise<readonly NewReading[]> {
  const readings: NewReading[] = [];
  for (const { bytes, line } of format === 'ndjson' ? linesOf(body) : elementsOf(body)) {
    const result = parseJson(bytes, mapping, arrivalUs);
    const reason = isRejected(result) ? result.reason : isSurelyFine(result) ? null : refusal(result);
    if (reason !== null) throw new Refusal(400, reason, { line });
    if (!isRejected(result)) readings.push(result);
    if (readings.length > READINGS_MAX) {
      throw new Refusal(413, `the body has more than ${READINGS_MAX} readings: send it in parts`);
    }
    if (readings.length % READINGS_PER_TURN === 0) await setImmediate();
  }
  return readings;
}

function elementsOf(body: Buffer): readonly ArrayElement[] {
  if (!isArray(body)) return [{ bytes: body, line: 1 }];
  const elements = splitArray(body, READINGS_MAX);
  if ('brokenAtLine' in elements) {
    throw new Refusal(400, 'the body is not JSON: the array does not end, or something follows it', {
      line: elements.brokenAtLine,
    });
  }
  return elements;
}

/** A line that says nothing is none. */
function* linesOf(body: Buffer): Iterable<ArrayElement> {
  for (let start = 0, line = 1; start < body.length; line += 1) {
    const found = body.indexOf(LF, start);
    const end = found < 0 ? body.length : found;
    const contentEnd = end > start && body[end - 1] === CR ? end - 1 : end;
    if (!isBlank(body, start, contentEnd)) yield { bytes: body.subarray(start, contentEnd), line };
    start = end + 1;
  }
}

function isBlank(body: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at += 1) if (body[at] !== 0x20 && body[at] !== 0x09) return false;
  return true;
}
