/**
 * The one-thread device loop: the main thread waits in one poll(2) for /dev/fuse and for libuv's own epoll descriptor, so that
 * requests, sockets, timers and promises meet without a thread hop (docs/decisions/0007).
 *
 * A turn reads up to REQUESTS_PER_TURN requests. An operation that returns at once is answered at once; one that returns a promise when
 * it settles. When nothing is under way it looks for the next one for a moment. Then `setImmediate` gives libuv its turn, at once where libuv has
 * something. When neither side has work, the loop spins briefly, then sleeps in poll(2);
 * after IDLE_MS without a new request it leaves the waiting to a pool thread and the main thread to libuv alone: no wake-ups while idle.
 * A RELEASE, for whose answer nobody waits, waits itself until the loop has nothing better to do: mostly while a commit is on its way. One that
 * gives back a lock does not wait: whoever closed the file may ask for the lock again at once.
 *
 * Invariants
 * - Every request that is read is owned by `#inFlight` or `#unhurried`, or answered before the next one is read; none is dropped while the loop runs.
 * - The main thread sleeps at most SLEEP_MS (ASYNC_SLEEP_MS while operations wait), so that a timer is late by no more than that.
 *   It sleeps only behind two idle passes: a socket that a callback opened reaches libuv's epoll in the next pass.
 * - An operation that throws is an answer: PosixError its errno, anything else is logged and EIO. Nothing it does ends the loop.
 * Failure: a request in flight when the process dies is sent again to the next worker, under the same `Caller.operation`.
 * Limits: what is in flight is bounded by the kernel (max_background and the number of waiting threads).
 */
import { closeSync } from 'node:fs';
import { describeError } from '../../lib/errors.ts';
import type { Caller as Requester } from '../callers/caller.ts';
import type { Callers } from '../callers/callers.ts';
import { Errno, PosixError } from '../vfs/operations.ts';
import type { Caller, Operations } from '../vfs/operations.ts';
import type { AccessLog } from './access-log.ts';
import type { Metrics } from './metrics.ts';
import { FIRST_READY, type Native, type PollPair } from './native.ts';
import type { Opcode } from './opcode.ts';
import { decodeInterrupt, INTERRUPT, OPCODES } from './opcodes.ts';
import { REQUEST_BUFFER_BYTES, UNIQUE_RESEND_HIGH } from './protocol.ts';
import { ReplyWriter } from './reply.ts';
import { RequestReader } from './request.ts';
import { Spin } from './spin.ts';

const REQUESTS_PER_TURN = 64;
/** For a program's next request, and for the answer of an engine on this machine (measured: 18 % of a create and write, at no more CPU). */
const REQUEST_SPIN_MS = 0.02;
const ANSWER_SPIN_MS = 0.15;
const ASYNC_SLEEP_MS = 1;
const SLEEP_MS = 4;
const IDLE_MS = 100;
/** A release waits no longer behind requests that keep coming: it may be the last one of a file that is removed. */
const UNHURRIED_MS = 1;
/** A pool thread returns at least this often, so that a process that exits never waits longer for it. */
const IDLE_POLL_MS = 500;

/** The resend bit is no part of a request's identity. */
function identity(low: number, high: number): number {
  return (high & ~UNIQUE_RESEND_HIGH) * 0x1_0000_0000 + low;
}

class Request implements Caller {
  readonly opcode: Opcode;
  readonly opcodeNumber: number;
  readonly low: number;
  readonly high: number;
  readonly ino: bigint;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly requester: Requester;
  readonly startedMs: number;
  /** It could not be answered at once. */
  waited = false;
  readonly #session: string;
  #abort: AbortController | undefined;
  #interrupted = false;

  constructor(opcode: Opcode, opcodeNumber: number, reader: RequestReader, requester: Requester, session: string) {
    this.opcode = opcode;
    this.opcodeNumber = opcodeNumber;
    this.low = reader.uniqueLow;
    this.high = reader.uniqueHigh;
    this.ino = reader.ino;
    this.uid = reader.uid;
    this.gid = reader.gid;
    this.pid = requester.pid;
    this.requester = requester;
    this.startedMs = performance.now();
    this.#session = session;
  }

  get operation(): string {
    return `${this.#session}:${identity(this.low, this.high)}`;
  }

  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#interrupted) this.#abort.abort();
    return this.#abort.signal;
  }

  interrupt(): void {
    this.#interrupted = true;
    this.#abort?.abort();
  }
}

export interface DeviceLoopOptions {
  readonly fd: number;
  /** Identifies the mount, for `Caller.operation`. */
  readonly session: string;
  readonly operations: Operations;
  readonly setxattrExtended: boolean;
  readonly metrics: Metrics;
  readonly callers: Callers;
  readonly accessLog?: AccessLog;
  readonly log: (message: string) => void;
}

export class DeviceLoop {
  readonly #options: DeviceLoopOptions;
  readonly #sys: Native;
  readonly #buffer = Buffer.allocUnsafeSlow(REQUEST_BUFFER_BYTES);
  readonly #reader: RequestReader;
  readonly #reply: ReplyWriter;
  readonly #inFlight = new Map<number, Request>();
  /** Read, and not begun. */
  #unhurried: (readonly [Request, unknown])[] = [];
  readonly #poll: PollPair;
  readonly #requestSpin: Spin;
  readonly #answerSpin: Spin;
  readonly #wakeFd: number;
  readonly #idlePoll: PollPair;
  #idlePasses = 0;
  #lastRequestMs = performance.now();
  #stopping = false;
  #settled: ((value?: unknown) => void) | undefined;
  /** The wait of a pool thread, while there is one. */
  #idle: Promise<void> | undefined;
  readonly #ended = Promise.withResolvers<'unmounted' | 'stopped'>();

  constructor(sys: Native, options: DeviceLoopOptions) {
    this.#sys = sys;
    this.#options = options;
    this.#reader = new RequestReader(this.#buffer, options.setxattrExtended);
    this.#reply = new ReplyWriter(sys, options.fd);
    this.#poll = sys.pollPair(options.fd, sys.uvBackendFd());
    this.#requestSpin = new Spin(this.#poll, REQUEST_SPIN_MS);
    this.#answerSpin = new Spin(this.#poll, ANSWER_SPIN_MS);
    this.#wakeFd = sys.eventfd();
    this.#idlePoll = sys.pollPair(options.fd, this.#wakeFd);
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Serves until the file system is unmounted or `stop` is called. */
  async run(): Promise<'unmounted' | 'stopped'> {
    this.#sys.setNonBlocking(this.#options.fd);
    setImmediate(this.#pass);
    const reason = await this.#ended.promise;
    await this.#idle;
    closeSync(this.#wakeFd);
    return reason;
  }

  /**
   * Reads no further request and waits up to `timeoutMs` for those in flight. What is unanswered then stays in the kernel's list: the
   * next worker gets it again.
   */
  async stop(timeoutMs: number): Promise<void> {
    this.#stopping = true;
    this.#wake();
    if (this.#inFlight.size > 0) {
      const { promise, resolve } = Promise.withResolvers<unknown>();
      const timer = setTimeout(resolve, timeoutMs);
      this.#settled = resolve;
      await promise;
      clearTimeout(timer);
    }
    this.#end('stopped');
  }

  #end(reason: 'unmounted' | 'stopped'): void {
    this.#stopping = true;
    this.#ended.resolve(reason);
  }

  readonly #pass = (): void => {
    if (this.#stopping) return;
    const ready = this.#poll.wait(0) || this.#rest();
    if (ready === 'idle') return;
    if (ready !== 0) this.#idlePasses = 0;
    if ((ready & FIRST_READY) !== 0 && !this.#turn()) this.#end('unmounted');
    else setImmediate(this.#pass);
  };

  /** Serves what is there; false when the file system is gone. */
  #turn(): boolean {
    const { fd } = this.#options;
    for (let served = 0; served < REQUESTS_PER_TURN;) {
      const length = this.#sys.read(fd, this.#buffer, REQUEST_BUFFER_BYTES);
      if (length > 0) {
        served++;
        this.#serve(length);
      } else if (length === -Errno.EAGAIN) {
        // A program that writes block after block: a pass through libuv before each would cost a tenth of it. Whoever waits for something has it at once.
        if (this.#inFlight.size > 0 || this.#unhurried.length > 0) break;
        served++;
        if (this.#requestSpin.wait(performance.now()) !== FIRST_READY) break;
      } else if (length !== -Errno.ENOENT && length !== -Errno.EINTR) {
        // ENODEV after an unmount or an abort. ENOENT is a request that was withdrawn while it was read.
        if (length !== -Errno.ENODEV) this.#options.log(`/dev/fuse: read ended with errno ${-length}`);
        this.#serveUnhurried();
        return false;
      }
    }
    this.#lastRequestMs = performance.now();
    const [oldest] = this.#unhurried;
    if (oldest !== undefined && this.#lastRequestMs - oldest[0].startedMs > UNHURRIED_MS) this.#serveUnhurried();
    return true;
  }

  /** Nothing is there: what becomes ready on either side while it waits, 0 for a pass through libuv; 'idle': a pool thread calls back. */
  #rest(): number | 'idle' {
    if (this.#inFlight.size > 0 && this.#serveUnhurried()) return 0;
    if (++this.#idlePasses < 2) return 0;
    const now = performance.now();
    if (now - this.#lastRequestMs > IDLE_MS) {
      // This process may not have run for so long since it read them.
      if (this.#serveUnhurried()) return 0;
      this.#idle = this.#waitIdle();
      return 'idle';
    }
    const ready = this.#spin(now);
    if (ready !== 0) return ready;
    if (this.#serveUnhurried()) return 0;
    return this.#poll.wait(this.#inFlight.size > 0 ? ASYNC_SLEEP_MS : SLEEP_MS);
  }

  /** For what was not waited for in the turn. */
  #spin(nowMs: number): number {
    if (this.#inFlight.size > 0) return this.#answerSpin.wait(nowMs);
    return this.#unhurried.length > 0 ? this.#requestSpin.wait(nowMs) : 0;
  }

  /** True when there was something. */
  #serveUnhurried(): boolean {
    if (this.#unhurried.length === 0) return false;
    const requests = this.#unhurried;
    this.#unhurried = [];
    for (const [request, args] of requests) this.#call(request, args);
    return true;
  }

  async #waitIdle(): Promise<void> {
    let ready = 0;
    while (ready === 0 && !this.#stopping) ready = await this.#idlePoll.waitAsync(IDLE_POLL_MS);
    this.#lastRequestMs = performance.now();
    this.#pass();
  }

  #wake(): void {
    const one = Buffer.alloc(8);
    one[0] = 1;
    this.#sys.write(this.#wakeFd, one, 8);
  }

  #serve(length: number): void {
    const reader = this.#reader;
    if (!reader.load(length)) {
      this.#options.log(`/dev/fuse: a request of ${length} bytes says otherwise of itself; ignored`);
      return;
    }
    const number = reader.opcode;
    if (number === INTERRUPT) {
      this.#interrupt(length);
      return;
    }
    const opcode = OPCODES[number];
    if (opcode === undefined) {
      this.#reply.sendError(reader.uniqueLow, reader.uniqueHigh, Errno.ENOSYS);
      return;
    }
    const { callers, session } = this.#options;
    const request = new Request(opcode, number, reader, callers.of(reader.pid), session);
    let args: unknown;
    try {
      args = opcode.decode(reader);
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (opcode.unhurried?.(this.#options.operations, request.ino, args) === true) this.#unhurried.push([request, args]);
    else this.#call(request, args);
  }

  #call(request: Request, args: unknown): void {
    const { opcode } = request;
    try {
      const result = opcode.call(this.#options.operations, request, request.ino, args);
      if (result instanceof Promise) this.#await(request, args, result);
      else this.#answer(request, args, result);
    } catch (error) {
      this.#fail(request, error);
    }
  }

  #await(request: Request, args: unknown, result: Promise<unknown>): void {
    const key = identity(request.low, request.high);
    this.#inFlight.set(key, request);
    request.waited = true;
    const settle = (answer: () => void): void => {
      try {
        answer();
      } catch (error) {
        this.#fail(request, error);
      } finally {
        this.#inFlight.delete(key);
        if (this.#inFlight.size === 0) this.#settled?.();
      }
    };
    void result.then(
      (value) => settle(() => this.#answer(request, args, value)),
      (error: unknown) => settle(() => this.#fail(request, error)),
    );
  }

  #answer(request: Request, args: unknown, result: unknown): void {
    const { opcode } = request;
    if (opcode.silent !== true) {
      this.#reply.begin();
      opcode.encode?.(this.#reply, result, args);
      const written = this.#reply.send(request.low, request.high);
      if (written < 0) {
        this.#takeBack(request, args, result, -written);
        return;
      }
    }
    this.#record(request, 0);
    if (opcode.readBytes !== undefined) this.#countRead(request, opcode.readBytes(result, args));
    else if (opcode.writtenBytes !== undefined) this.#countWrite(request, opcode.writtenBytes(result));
    else if (opcode.passesThrough?.(result) === true) this.#options.callers.opensPassedThrough(request.requester);
  }

  #countRead({ requester, ino, waited, startedMs }: Request, bytes: number): void {
    const { counts } = requester;
    counts.reads++;
    counts.readBytes += bytes;
    if (waited) counts.readsWaited++;
    this.#options.callers.files.add(Number(ino), bytes, 0, startedMs);
  }

  #countWrite({ requester, ino, startedMs }: Request, bytes: number): void {
    const { counts } = requester;
    counts.writes++;
    counts.writtenBytes += bytes;
    this.#options.callers.files.add(Number(ino), 0, bytes, startedMs);
  }

  /** The reply reached nobody (ENOENT: the caller was killed): what it handed out is given back. */
  #takeBack(request: Request, args: unknown, result: unknown, errno: number): void {
    const { opcode, ino } = request;
    if (errno !== Errno.ENOENT && errno !== Errno.ENODEV) {
      this.#options.log(`${opcode.name} of inode ${ino}: the kernel refused the reply with errno ${errno}`);
      if (errno === Errno.EINVAL) this.#reply.sendError(request.low, request.high, Errno.EIO);
    }
    this.#record(request, Errno.EINTR);
    Promise.resolve(opcode.undo?.(this.#options.operations, request, ino, result, args)).catch((error: unknown) => {
      this.#options.log(`${opcode.name} of inode ${ino} could not be taken back: ${describeError(error)}`);
    });
  }

  #fail(request: Request, error: unknown): void {
    let errno: number = Errno.EIO;
    if (error instanceof PosixError) errno = error.errno;
    else this.#options.log(`${request.opcode.name} of inode ${request.ino} failed: ${stackOf(error)}`);
    if (request.opcode.silent !== true) this.#reply.sendError(request.low, request.high, errno);
    this.#record(request, errno);
  }

  #record(request: Request, errno: number): void {
    const elapsedUs = (performance.now() - request.startedMs) * 1000;
    this.#options.metrics.record(request.opcodeNumber, errno, elapsedUs);
    const { counts } = request.requester;
    counts.requests++;
    counts.waitUs += elapsedUs;
    if (errno !== 0) counts.errors++;
    this.#options.accessLog?.record(request.opcode.name.toLowerCase(), request.ino, errno, elapsedUs);
  }

  /** An INTERRUPT has no answer. Its target may not have been read yet; the kernel asks again when it is answered EAGAIN. */
  #interrupt(length: number): void {
    const reader = this.#reader;
    if (length < 48) return;
    const { low, high } = decodeInterrupt(reader);
    const target = this.#inFlight.get(identity(low, high));
    if (target === undefined) return;
    target.interrupt();
  }
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : describeError(error);
}
