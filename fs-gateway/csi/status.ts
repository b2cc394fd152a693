/** gRPC statuses: the codes that the specification gives to an answer, and the one mapping of Penstock's errors to them. */
import { status as Status } from '@grpc/grpc-js';
import type { status as StatusCode } from '@grpc/grpc-js';
import { describeError, isSystemError, PenstockError, systemCode } from '../../lib/errors.ts';
import type { ErrorCode } from '../../lib/errors.ts';

export { Status };

/** An answer that the specification names, where the code of a Penstock error would not give it. */
export class CsiError extends Error {
  override readonly name = 'CsiError';
  readonly code: StatusCode;

  constructor(code: StatusCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export function invalid(message: string): CsiError {
  return new CsiError(Status.INVALID_ARGUMENT, message);
}

function statusOf(code: ErrorCode): StatusCode {
  switch (code) {
    case 'usage':
    case 'config':
    case 'too-large':
      return Status.INVALID_ARGUMENT;
    case 'not-found':
      return Status.NOT_FOUND;
    case 'exists':
      return Status.ALREADY_EXISTS;
    case 'conflict':
      return Status.ABORTED;
    case 'fenced':
    case 'unavailable':
    case 'timeout':
    case 'closed':
    case 'aborted':
      return Status.UNAVAILABLE;
    case 'corrupt':
      return Status.DATA_LOSS;
    case 'full':
    case 'quota':
      return Status.RESOURCE_EXHAUSTED;
    case 'denied':
      return Status.UNAUTHENTICATED;
    case 'unsupported':
    case 'held':
      return Status.FAILED_PRECONDITION;
    case 'out-of-order':
    case 'unknown-producer':
    case 'io':
      return Status.INTERNAL;
  }
}

export interface GrpcAnswer {
  readonly code: StatusCode;
  readonly details: string;
}

/** What a caller is told of anything thrown. */
export function toGrpc(error: unknown): GrpcAnswer {
  if (error instanceof CsiError) return { code: error.code, details: describeError(error) };
  if (error instanceof PenstockError) return { code: statusOf(error.code), details: describeError(error) };
  // Of a mount that cannot reach what it needs: what a call finds there, the next one may not.
  const isOfMount = isSystemError(error) && systemCode(error) === 'EIO';
  return { code: isOfMount ? Status.UNAVAILABLE : Status.INTERNAL, details: describeError(error) };
}
