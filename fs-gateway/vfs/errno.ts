/** From our errors to errno: the one exhaustive switch. */
import { PenstockError, describeError } from '../../lib/errors.ts';
import type { ErrorCode } from '../../lib/errors.ts';
import { NotEmptyError } from '../meta/change.ts';
import { Errno, PosixError } from './operations.ts';
import type { Result } from './operations.ts';

function errnoOf(code: ErrorCode): number {
  switch (code) {
    case 'not-found':
      return Errno.ENOENT;
    case 'exists':
      return Errno.EEXIST;
    case 'full':
      return Errno.ENOSPC;
    case 'quota':
      return Errno.EDQUOT;
    case 'denied':
      return Errno.EACCES;
    case 'too-large':
      return Errno.EFBIG;
    case 'unsupported':
      return Errno.EOPNOTSUPP;
    case 'aborted':
      return Errno.EINTR;
    case 'held':
      return Errno.EBUSY;
    case 'usage':
    case 'config':
    case 'conflict':
    case 'fenced':
    case 'corrupt':
    case 'unavailable':
    case 'timeout':
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
  if (!(error instanceof PenstockError)) return error;
  const errno = errnoOf(error.code);
  if (errno === Errno.EIO) report(describeError(error));
  return new PosixError(errno, error.message, { cause: error });
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
