/**
 * The context of a trace as it travels with a reading: W3C Trace Context, level 1, in the record header `traceparent`:
 *
 *   00-<trace id, 32 hex digits>-<id of the span before, 16 hex digits>-<flags, 2 hex digits; bit 0: sampled>
 */
import { randomBytes } from 'node:crypto';

export const TRACEPARENT = 'traceparent';

export interface TraceContext {
  readonly traceId: string;
  readonly spanId: string;
}

const SAMPLED = 1;
/** Of later versions, which may append to the 55 of this one. Longer ones are not looked at: the ids that are kept would keep all of the text. */
const TEXT_MAX = 256;
const ZEROS = /^0+$/;

export const newTraceId = (): string => randomBytes(16).toString('hex');
export const newSpanId = (): string => randomBytes(8).toString('hex');

export function traceparentOf({ traceId, spanId }: TraceContext): string {
  return `00-${traceId}-${spanId}-01`;
}

/** null: it is none, or not sampled. Later versions of the format begin as this one does. */
export function parseTraceparent(text: string): TraceContext | null {
  if (text.length > TEXT_MAX) return null;
  const [, version, traceId = '', spanId = '', flags = '', rest] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(text) ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && rest !== undefined)) return null;
  if (ZEROS.test(traceId) || ZEROS.test(spanId)) return null;
  return (Number.parseInt(flags, 16) & SAMPLED) === 0 ? null : { traceId, spanId };
}
