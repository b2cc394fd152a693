/**
 * From errors to errno: the one place. What POSIX says of names, modes and sizes is thrown as `PosixError` where it is decided. All else is a failure of the
 * store, the metadata engine or the cache directory: a program that reads, writes or closes expects EIO, ENOSPC or EDQUOT of those, and EROFS of a disk that
 * became read-only, and could only misunderstand what a missing object or a refused credential would be called.
 */
import { PenstockError, describeError, fromSystemError, systemCode } from '../../lib/errors.ts';
import type { ErrorCode } from '../../lib/errors.ts';
import { ReadOnlyDiskError } from '../data/disk-room.ts';
import { NotEmptyError } from '../meta/change.ts';
import { Errno, PosixError } from './operations.ts';
import type { Result } from './operations.ts';

/** Not Node's own, such as ERR_OUT_OF_RANGE: those are bugs. */
const SYSTEM_CODE = /^E[A-Z0-9]+$/;

function errnoOf(code: ErrorCode): number {
  switch (code) {
    case 'full':
      return Errno.ENOSPC;
    case 'quota':
      return Errno.EDQUOT;
    case 'usage':
    case 'config':
    case 'not-found':
    case 'exists':
    case 'conflict':
    case 'fenced':
    case 'corrupt':
    case 'unavailable':
    case 'timeout':
    case 'aborted':
    case 'denied':
    case 'too-large':
    case 'unsupported':
    case 'held':
    case 'closed':
    case 'out-of-order':
    case 'unknown-producer':
    case 'io':
      return Errno.EIO;
  }
}

/** What an operation throws. An EIO is reported with its whole story, since the program sees only the number. */
function toPosix(error: unknown, report: (message: string) => void): unknown {
  if (error instanceof PosixError) return error;
  if (error instanceof NotEmptyError) return new PosixError(Errno.ENOTEMPTY, error.message);
  // What the disk of the cache directory said.
  const known = SYSTEM_CODE.test(systemCode(error) ?? '') ? fromSystemError(error, 'cache directory') : error;
  if (!(known instanceof PenstockError)) return known;
  // Told once by who met it first.
  const errno = known instanceof ReadOnlyDiskError ? Errno.EROFS : errnoOf(known.code);
  if (errno === Errno.EIO) report(describeError(known));
  return new PosixError(errno, known.message, { cause: known });
}

/** Runs an operation, at once or not, with its errors translated. */
export function guard<T>(report: (message: string) => void, run: () => Result<T>): Result<T> {
  try {
    const result = run();
    if (!(result instanceof Promise)) return result;
    return result.catch((error: unknown) => {
      throw toPosix(error, report);
    });
  } catch (error) {
    throw toPosix(error, report);
  }
}
