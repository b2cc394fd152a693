/**
 * Errors of the Iceberg REST catalog: the body `{ error: { message, type, code } }` with the exception names that clients look for.
 *
 * Source: schema ErrorModel and the responses of apache/iceberg `open-api/rest-catalog-open-api.yaml`.
 */
import { describeError, PenstockError } from '../../errors.ts';

const STATUS = {
  BadRequestException: 400,
  NotAuthorizedException: 401,
  NoSuchNamespaceException: 404,
  NoSuchTableException: 404,
  NotFoundException: 404,
  UnsupportedOperationException: 406,
  AlreadyExistsException: 409,
  CommitFailedException: 409,
  NamespaceNotEmptyException: 409,
  PayloadTooLargeException: 413,
  CommitStateUnknownException: 500,
  InternalServerError: 500,
  ServiceUnavailableException: 503,
} as const;
export type RestErrorType = keyof typeof STATUS;

/** An answer other than success that the specification names. */
export class RestError extends Error {
  override readonly name = 'RestError';
  readonly type: RestErrorType;

  constructor(type: RestErrorType, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options);
    this.type = type;
  }

  get status(): number {
    return STATUS[this.type];
  }

  get body(): { readonly error: { readonly message: string; readonly type: string; readonly code: number } } {
    return { error: { message: this.message, type: this.type, code: this.status } };
  }
}

/** What a client may be told of anything thrown. */
export function toRestError(error: unknown): RestError {
  if (error instanceof RestError) return error;
  if (!(error instanceof PenstockError))
    return new RestError('InternalServerError', 'internal error', { cause: error });
  return new RestError(typeOf(error), describeError(error), { cause: error });
}

/** The one place where an error's code becomes an HTTP status here. */
function typeOf(error: PenstockError): RestErrorType {
  switch (error.code) {
    case 'usage':
    case 'config':
      return 'BadRequestException';
    case 'conflict':
      // A race that was lost may be won next time; a change that the rules forbid never is.
      return error.retryable ? 'CommitFailedException' : 'BadRequestException';
    case 'not-found':
      return 'NoSuchTableException';
    case 'exists':
      return 'AlreadyExistsException';
    case 'unsupported':
      return 'UnsupportedOperationException';
    case 'timeout':
      // Clients delete what they wrote after a plain failure; after this they do not.
      return 'CommitStateUnknownException';
    case 'too-large':
      return 'PayloadTooLargeException';
    case 'unavailable':
    case 'fenced':
    case 'held':
    case 'closed':
    case 'aborted':
    case 'full':
    case 'quota':
      return 'ServiceUnavailableException';
    case 'corrupt':
    case 'denied':
    case 'io':
    case 'out-of-order':
    case 'unknown-producer':
      return 'InternalServerError';
  }
}
