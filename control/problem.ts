/** Errors as RFC 9457 problem documents, and the one place where an error's code becomes an HTTP status. */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyReply, FastifyRequest, FastifySchemaCompiler } from 'fastify';
import { z } from 'zod';
import { describeIssue, ISSUES } from '../lib/config/issues.ts';
import type { KeyProblem } from '../lib/config/issues.ts';
import { describeError, PenstockError, type ErrorCode } from '../lib/errors.ts';

export const problemSchema = z
  .object({
    /** Stable: clients may branch on it. */
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    /** What of the request was wrong, by place. */
    errors: z.array(z.object({ where: z.string(), message: z.string() })).optional(),
  })
  .meta({ description: 'RFC 9457 problem document' });
type Problem = z.output<typeof problemSchema>;

const MEDIA_TYPE = 'application/problem+json';

export function httpStatus(code: ErrorCode): number {
  switch (code) {
    case 'usage':
    case 'config':
      return 400;
    case 'denied':
      return 403;
    case 'not-found':
      return 404;
    case 'exists':
    case 'conflict':
    case 'held':
    case 'out-of-order':
    case 'unknown-producer':
      return 409;
    case 'too-large':
      return 413;
    case 'quota':
    case 'full':
      return 507;
    case 'unsupported':
      return 501;
    case 'timeout':
      return 504;
    case 'unavailable':
    case 'fenced':
    case 'closed':
    case 'aborted':
      return 503;
    case 'corrupt':
    case 'io':
      return 500;
  }
}

const TITLES: Readonly<Record<number, string>> = {
  400: 'The request is not valid',
  401: 'A valid token is needed',
  403: 'Not allowed',
  404: 'Not found',
  405: 'The method is not taken here',
  408: 'It took too long to send',
  409: 'Conflict',
  412: 'It was changed meanwhile',
  413: 'Too large',
  415: 'The body must be application/json',
  428: 'A condition is needed',
  429: 'Too many requests',
  431: 'The header is too large',
  500: 'Internal error',
  501: 'Not supported',
  502: 'The other service failed',
  503: 'Not available at present',
  504: 'It took too long',
  507: 'Out of space or memory',
};

function problem(status: number, code: string, detail: string, errors?: Problem['errors']): Problem {
  return {
    type: `urn:penstock:problem:${code}`,
    title: TITLES[status] ?? 'The request failed',
    status,
    detail,
    ...(errors === undefined ? {} : { errors }),
  };
}

/** What only HTTP has a word for. */
export class HttpProblem extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function sendProblem(reply: FastifyReply, status: number, code: string, detail: string): FastifyReply {
  return reply
    .code(status)
    .type(MEDIA_TYPE)
    .serializer(JSON.stringify)
    .send(problem(status, code, detail));
}

const PLACES: Readonly<Record<string, string>> = {
  ...{ body: 'the body', querystring: 'the query', params: 'the path', headers: 'the headers' },
};

/** What a schema has against a request. Fastify says in which part of it that is. */
class InvalidRequest extends Error {
  readonly problems: readonly KeyProblem[];
  validationContext?: string;

  constructor(problems: readonly KeyProblem[]) {
    super('the request is not valid');
    this.problems = problems;
  }
}

/** Fastify's validator: the words of configurations, and not those of the schema library, which name kinds of JavaScript. */
export const validatorCompiler: FastifySchemaCompiler<z.ZodType> =
  ({ schema }) =>
  (data: unknown) => {
    const parsed = schema.safeParse(data, ISSUES);
    return parsed.success
      ? { value: parsed.data }
      : { error: new InvalidRequest(parsed.error.issues.flatMap(describeIssue)) };
  };

/** Fastify's error handler: everything that a route, a hook or the validation throws. */
export function handleError(error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (error instanceof InvalidRequest) {
    const { validationContext: part = 'request', problems } = error;
    const place = PLACES[part] ?? 'the request';
    const errors = problems.map(({ key, message }) => ({ where: `${part}/${key}`, message }));
    const detail = problems.map(({ key, message }) => `${key === '' ? '' : `${key} in `}${place}: ${message}`);
    return reply
      .code(400)
      .type(MEDIA_TYPE)
      .serializer(JSON.stringify)
      .send(problem(400, 'validation', detail.join('; '), errors));
  }
  if (error instanceof PenstockError) {
    const status = httpStatus(error.code);
    if (status >= 500) request.log.warn({ err: error }, 'request failed');
    if (status === 503) void reply.header('retry-after', '3');
    return sendProblem(reply, status, error.code, describeError(error));
  }
  if (error instanceof HttpProblem) return sendProblem(reply, error.status, error.code, error.message);
  const status = ('statusCode' in error ? error.statusCode : undefined) ?? 500;
  if (status < 500) return sendProblem(reply, status, 'http', error.message);
  // An error that is none of ours may carry anything in its text: it goes to the log, not to the client.
  request.log.error({ err: error }, 'unexpected error');
  return sendProblem(reply, 500, 'internal', 'an unexpected error; it is in the log of the server');
}

/** What node refuses before there is a request: the connection is of no use after it. */
export function refuseConnection({ code, message }: Error & { readonly code: string }, socket: Socket): void {
  if (code === 'ECONNRESET' || socket.destroyed) return;
  const [status, detail] =
    code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? [408, 'the request was not whole in time']
      : code === 'HPE_HEADER_OVERFLOW'
        ? [431, 'the head of the request is longer than 16 KiB']
        : [400, `this is not HTTP/1.1: ${message}`];
  const body = JSON.stringify(problem(status, 'http', detail));
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}`,
    `content-type: ${MEDIA_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ];
  if (socket.writable) socket.write(`${head.join('\r\n')}\r\n\r\n${body}`);
  socket.destroy();
}
