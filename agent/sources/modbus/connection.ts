/**
 * One connection to a Modbus device or gateway: one request at a time, because many devices know no more.
 *
 * Invariants: an answer counts only with the transaction id, unit and function that were asked for, and with as much data. A request that
 * was given up may still be answered: that answer is recognised by its transaction id and dropped, so a slow device behind a gateway costs
 * the others no connection. Any other answer is refused with its bytes, and ends the connection.
 * Failure: whatever ends the connection rejects the request under way with the reason; the caller makes another one.
 * Limits: `timeoutMs` for an answer, in time of this process (own-timeout.ts); SILENT_MAX requests without any answer end the connection.
 */
import { connect, type Socket } from 'node:net';
import { describeError, PenstockError } from '../../../lib/errors.ts';
import { OwnTimeout } from '../../../lib/own-timeout.ts';
import { encodeRead, FrameCutter, parseAnswer, type Frame, type ReadRequest } from './frame.ts';

const CONNECT_TIMEOUT_MS = 10_000;
const SILENT_MAX = 3;
/** Given-up requests that are remembered; an answer that comes later than so many others is refused. */
const ABANDONED_MAX = 64;
const TRANSACTIONS = 65_536;

/** `silent`: no answer within the timeout. */
export type Answer = { readonly data: Buffer } | { readonly exception: number } | { readonly silent: true };

export interface ConnectionOptions {
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  /** Ends the connection. */
  readonly signal: AbortSignal;
  readonly onLateAnswer: () => void;
  readonly onRefused: (reason: string, request: ReadRequest | null, bytes: Buffer) => void;
}

interface Pending {
  readonly transaction: number;
  readonly request: ReadRequest;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #socket: Socket;
  readonly #cutter = new FrameCutter();
  readonly #ended = new AbortController();
  readonly #abandoned = new Set<number>();
  #pending: Pending | null = null;
  #transaction = 0;
  #silentInARow = 0;
  #reason: Error | null = null;

  private constructor(options: ConnectionOptions) {
    this.#options = options;
    const { host, port, signal } = options;
    this.#socket = connect({ host, port, noDelay: true, keepAlive: true });
    const stop = (): void => this.end(new PenstockError('aborted', 'the agent stops'));
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#socket.once('error', (error) => {
      this.#reason ??= new PenstockError('unavailable', describeError(error), { cause: error });
    });
    this.#socket.once('close', () => {
      signal.removeEventListener('abort', stop);
      this.#reason ??= new PenstockError('unavailable', 'the device closed the connection');
      this.#pending?.reject(this.#reason);
      this.#pending = null;
      this.#ended.abort();
    });
  }

  /** Throws `unavailable`, `timeout`, `aborted`. */
  static async open(options: ConnectionOptions): Promise<Connection> {
    const connection = new Connection(options);
    const socket = connection.#socket;
    const timer = setTimeout(
      () => connection.end(new PenstockError('timeout', `no connection within ${CONNECT_TIMEOUT_MS / 1000} s`)),
      CONNECT_TIMEOUT_MS,
    );
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('close', () => reject(connection.#endedReason()));
      });
      return connection;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Fires when the connection has ended. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Throws the reason why the connection ended: `unavailable`, `corrupt`, `timeout`, `aborted`. */
  assertOpen(): void {
    if (this.#ended.signal.aborted || this.#socket.destroyed) throw this.#endedReason();
  }

  /** Throws as `assertOpen`. */
  async read(request: ReadRequest): Promise<Answer> {
    this.assertOpen();
    this.#transaction = (this.#transaction + 1) % TRANSACTIONS;
    const transaction = this.#transaction;
    this.#abandoned.delete(transaction);
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#pending = { transaction, request, resolve, reject };
    const timeout = new OwnTimeout(this.#options.timeoutMs, () => this.#giveUp(transaction));
    try {
      this.#socket.write(encodeRead(transaction, request));
      return await promise;
    } finally {
      timeout.clear();
    }
  }

  end(reason: Error): void {
    this.#reason ??= reason;
    this.#socket.destroy();
  }

  #endedReason(): Error {
    return this.#reason ?? new PenstockError('unavailable', 'the connection has ended');
  }

  #giveUp(transaction: number): void {
    this.#abandoned.add(transaction);
    const [oldest = transaction] = this.#abandoned;
    if (this.#abandoned.size > ABANDONED_MAX) this.#abandoned.delete(oldest);
    this.#silentInARow += 1;
    this.#pending?.resolve({ silent: true });
    this.#pending = null;
    if (this.#silentInARow < SILENT_MAX) return;
    const what = `the device did not answer ${SILENT_MAX} times in a row, each within ${this.#options.timeoutMs} ms`;
    this.end(new PenstockError('timeout', what));
  }

  #receive(chunk: Buffer): void {
    try {
      for (const frame of this.#cutter.push(chunk)) this.#take(frame);
    } catch (error) {
      this.#refuse(error instanceof Error ? error : new Error(String(error)), chunk);
    }
  }

  #take(frame: Frame): void {
    const pending = this.#pending;
    if (this.#abandoned.delete(frame.transaction)) {
      this.#silentInARow = 0;
      this.#options.onLateAnswer();
      return;
    }
    try {
      if (pending === null) throw new PenstockError('corrupt', 'the device answers what was not asked');
      const { transaction, request } = pending;
      if (frame.transaction !== transaction) throw otherThan('transaction', frame.transaction, transaction);
      if (frame.unit !== request.unit) throw otherThan('unit', frame.unit, request.unit);
      const answer = parseAnswer(request, frame.pdu);
      this.#silentInARow = 0;
      this.#pending = null;
      pending.resolve(answer);
    } catch (error) {
      this.#refuse(error instanceof Error ? error : new Error(String(error)), frame.bytes);
    }
  }

  #refuse(error: Error, bytes: Buffer): void {
    if (this.#socket.destroyed) return;
    this.#options.onRefused(error.message, this.#pending?.request ?? null, bytes);
    this.end(error);
  }
}

function otherThan(what: string, given: number, asked: number): PenstockError {
  return new PenstockError('corrupt', `the device answers for another: ${what} ${given}, asked was ${what} ${asked}`);
}
