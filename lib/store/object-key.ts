/**
 * Object keys: the rules every adapter shares, so that a key that works on one store works on all, and none leaves its root.
 */
import { PenstockError } from '../errors.ts';

/** S3 allows 1,024 bytes; the rest is room for the prefix of a store's URL. */
export const KEY_BYTES_MAX = 900;
/** NAME_MAX of every local file system. */
const SEGMENT_BYTES_MAX = 255;
/** The first segment that no key may have: the directory store keeps its own files there. */
export const RESERVED_SEGMENT = '.penstock';

/** Throws `usage` unless `key` may name an object: see lib/store/store.ts. */
export function assertObjectKey(key: string): void {
  const problem = keyProblem(key);
  if (problem !== null) throw new PenstockError('usage', `${JSON.stringify(key)} is not an object key: ${problem}`);
}

/** False for what another program may have put into a bucket and `assertObjectKey` would refuse. */
export function isObjectKey(key: string): boolean {
  return keyProblem(key) === null;
}

function keyProblem(key: string): string | null {
  if (key === '') return 'it is empty';
  if (Buffer.byteLength(key) > KEY_BYTES_MAX) return `it is above ${KEY_BYTES_MAX} bytes`;
  // A lone surrogate would be stored as U+FFFD: two keys would name one object.
  if (!key.isWellFormed()) return 'it is not well-formed Unicode';
  // S3 lists keys in XML, which cannot hold these; a NUL would end a path.
  if (/[\u0000-\u001f\u007f\ufffe\uffff]/.test(key)) return 'it contains a control character';
  const segments = key.split('/');
  for (const segment of segments) {
    if (segment === '') return 'it has an empty segment';
    if (segment === '.' || segment === '..') return `it has a segment '${segment}'`;
    if (Buffer.byteLength(segment) > SEGMENT_BYTES_MAX) return `it has a segment above ${SEGMENT_BYTES_MAX} bytes`;
  }
  return segments[0] === RESERVED_SEGMENT ? `'${RESERVED_SEGMENT}/' is reserved` : null;
}

/** Orders keys by their UTF-8 bytes, as S3 lists them; JavaScript's own order differs above U+FFFF. */
export function compareKeys(a: string, b: string): number {
  if (a === b) return 0;
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** Throws `aborted` when the caller gave up. */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted === true) throw new PenstockError('aborted', `${what}: aborted`, { cause: signal.reason });
}
