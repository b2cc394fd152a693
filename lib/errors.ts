/**
 * The one error base of Penstock. Every layer throws `PenstockError` for operating errors (things that happen to a correct
 * program); a broken invariant is an `assert` and ends the process. Errno, HTTP status, gRPC status and exit status are
 * derived from `code` in exactly one exhaustive switch each, beside the boundary they belong to.
 */
export type ErrorCode =
  | 'usage' // bad command line
  | 'config' // bad configuration; the message names file, key and what was expected
  | 'not-found'
  | 'exists'
  | 'conflict' // an optimistic compare failed more often than the bounded retries allow
  | 'fenced' // our session or lease is gone: nothing may be written under it any more
  | 'corrupt' // stored bytes are not what was written; the message names the file, object or record
  | 'unavailable' // a service or disk does not answer; worth trying again
  | 'timeout' // a deadline passed; the effect is unknown
  | 'aborted' // the caller's AbortSignal fired
  | 'full' // no space on a disk, or a configured bound is reached
  | 'quota'
  | 'denied' // credentials or permissions
  | 'too-large' // a record, value or name is above a documented limit
  | 'unsupported' // this machine, service version or format cannot do it; the message names what can
  | 'held' // another process owns the directory or lease; the message names it
  | 'closed' // used after close
  | 'out-of-order' // log: the producer's sequence is not the next one
  | 'unknown-producer' // log: the producer id expired or was never known
  | 'io';

export interface ErrorOptionsWithRetry {
  readonly cause?: unknown;
  /** True when the same call may succeed later without anyone changing anything. */
  readonly retryable?: boolean;
}

export class PenstockError extends Error {
  override readonly name = 'PenstockError';
  readonly code: ErrorCode;
  readonly retryable: boolean;

  constructor(code: ErrorCode, message: string, options: ErrorOptionsWithRetry = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? (code === 'unavailable' || code === 'timeout' || code === 'conflict');
  }
}

export function isCode(error: unknown, ...codes: readonly ErrorCode[]): error is PenstockError {
  return error instanceof PenstockError && codes.includes(error.code);
}

/** The text of anything thrown, with the chain of causes behind it; a cause that a message already quotes is not said twice. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.cause === undefined) return error.message;
  const cause = describeError(error.cause);
  return error.message.includes(cause) ? error.message : `${error.message}: ${cause}`;
}

/** What libuv calls EDQUOT of Linux, which it does not know: 122 (x86-64, arm64). */
const QUOTA_CODE = 'Unknown system error -122';

/** The `code` of a Node system error such as ENOENT, or undefined. */
export function systemCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && error.code === QUOTA_CODE) return 'EDQUOT';
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Whether it is what the operating system answered to a call. */
export function isSystemError(error: unknown): boolean {
  return systemCode(error) !== undefined && error instanceof Error && 'syscall' in error;
}

/** Turns a Node file-system error into ours: ENOSPC/EDQUOT are `full`, EACCES/EPERM/EROFS `denied`, ENOENT `not-found`. */
export function fromSystemError(error: unknown, what: string): PenstockError {
  if (error instanceof PenstockError) return error;
  const code = systemCode(error);
  const mapped: ErrorCode =
    code === 'ENOSPC' || code === 'EDQUOT'
      ? 'full'
      : code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
        ? 'denied'
        : code === 'ENOENT'
          ? 'not-found'
          : 'io';
  return new PenstockError(mapped, `${what}: ${describeError(error)}`, { cause: error });
}
