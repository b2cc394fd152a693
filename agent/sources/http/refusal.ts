/** A request that is not accepted: what the client is told. Nothing of its body was taken. */
export type RefusalStatus = 400 | 401 | 404 | 405 | 413 | 415 | 422 | 429 | 500 | 503;

export class Refusal extends Error {
  readonly status: RefusalStatus;
  /** Of the body, from 1; where the input is at fault. */
  readonly line: number | undefined;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: RefusalStatus,
    message: string,
    options: {
      readonly line?: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, { cause: options.cause });
    this.status = status;
    this.line = options.line;
    this.headers = options.headers ?? {};
  }
}
