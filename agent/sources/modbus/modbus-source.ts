/**
 * Registers of Modbus devices over TCP, polled group by group on one connection.
 *
 * A reading is one poll of one group: `{ sensor, ts, quality, problem, <a field for each register> }`, in the order of the polls.
 *
 * Invariants: a value stands in a reading only if the device that was asked answered what was asked (connection.ts). What it refused is null
 * with the reason in `problem`; a group without any answer gives no reading, and is a problem of the source.
 * Failure: a connection that ends is made again with backoff. A poll is not acknowledged to anybody: kill -9 loses what was read and not
 * synced yet (milliseconds of it). While the spool is full, nothing is polled; missed polls are counted and not made up for.
 * Limits: those of the delivery queue.
 */
import { describeError, isCode } from '../../../lib/errors.ts';
import { Backoff } from '../../uplink/backoff.ts';
import type { NewReading } from '../../spool/frame.ts';
import { DeliveryQueue } from '../delivery-queue.ts';
import { pause, type Source, type SourceOutput } from '../source.ts';
import { deviceAddress, type ModbusSourceConfig } from './config.ts';
import { Connection } from './connection.ts';
import type { ReadRequest } from './frame.ts';
import { GroupPoll, listed } from './group-poll.ts';

const RECONNECT_MS_MIN = 200;
const RECONNECT_MS_MAX = 30_000;

export function modbusSource(config: ModbusSourceConfig): Source {
  const { host, port } = deviceAddress(config);
  return { name: `modbus:${host}:${port}`, run: (output, signal) => new Poller(config, output, signal).run() };
}

class Poller {
  readonly #config: ModbusSourceConfig;
  readonly #output: SourceOutput;
  readonly #queue: DeliveryQueue<NewReading>;
  /** Fires when the agent stops or a delivery failed. */
  readonly #stop: AbortSignal;
  readonly #failed = new AbortController();
  #failure: Error | undefined;
  readonly #groups: GroupPoll[];
  /** By group. */
  readonly #problems = new Map<GroupPoll, string>();
  #refusal: Promise<void> = Promise.resolve();

  constructor(config: ModbusSourceConfig, output: SourceOutput, signal: AbortSignal) {
    this.#config = config;
    this.#output = output;
    this.#groups = config.groups.map((group) => new GroupPoll(config, group, output.clock.monotonicMs()));
    this.#stop = AbortSignal.any([signal, this.#failed.signal]);
    this.#queue = new DeliveryQueue({
      deliver: (batch) => output.deliver(batch),
      onRoom: () => undefined,
      onFailure: (error) => this.#fail(error),
    });
  }

  async run(): Promise<void> {
    const backoff = new Backoff({ minMs: RECONNECT_MS_MIN, maxMs: RECONNECT_MS_MAX, random: Math.random });
    const stop = this.#stop;
    for (let attempt = 0; !stop.aborted; attempt += 1) {
      try {
        const connection = await this.#connect();
        this.#output.count('connection');
        await this.#pollUntilEnd(connection, () => (attempt = 0));
      } catch (error) {
        if (!isCode(error, 'aborted')) this.#output.report(describeError(error));
      }
      await backoff.wait(attempt, stop);
    }
    await this.#queue.idle();
    await this.#refusal;
    if (this.#failure !== undefined) throw this.#failure;
  }

  #connect(): Promise<Connection> {
    return Connection.open({
      ...deviceAddress(this.#config),
      timeoutMs: this.#config.timeout,
      signal: this.#stop,
      onLateAnswer: () => this.#output.count('late_answer'),
      onRefused: (reason, request, bytes) => this.#refuse(reason, request, bytes),
    });
  }

  /** Throws why the connection ended. `onAnswer` is called when a group was answered. */
  async #pollUntilEnd(connection: Connection, onAnswer: () => void): Promise<void> {
    const { clock } = this.#output;
    this.#restartGroups();
    this.#problems.clear();
    for (;;) {
      const next = this.#groups.reduce((first, group) => (group.dueMs < first.dueMs ? group : first));
      // Also without a wait, lest a device that is too slow for its intervals keeps the agent from looking at its signal.
      await pause(Math.max(0, next.dueMs - clock.monotonicMs()), connection.ended);
      connection.assertOpen();
      const missed = next.schedule(clock.monotonicMs());
      if (missed > 0) this.#output.count('poll_missed', missed);
      if (this.#queue.isFull) this.#output.count('poll_missed');
      else if (await this.#poll(next, connection)) onAnswer();
    }
  }

  /**
   * The order in which they are due outlasts a connection: else those whose turn ends it (three that are silent, or one whose answer is refused)
   * would have the first turn on each, and the others none. The first of them has its turn at once.
   */
  #restartGroups(): void {
    const nowMs = this.#output.clock.monotonicMs();
    this.#groups.sort((a, b) => a.dueMs - b.dueMs);
    const early = Math.max(0, (this.#groups[0]?.dueMs ?? nowMs) - nowMs);
    for (const group of this.#groups) group.restart(Math.max(nowMs, group.dueMs - early));
  }

  /** Returns whether there was an answer. */
  async #poll(group: GroupPoll, connection: Connection): Promise<boolean> {
    const { to: topic, priority } = this.#config;
    const nowMs = this.#output.clock.nowMs();
    const { value, exceptions, isSilent, problem } = await group.poll(connection, nowMs);
    if (exceptions > 0) this.#output.count('exception', exceptions);
    if (isSilent) this.#output.count('timeout');
    if (problem === null) this.#problems.delete(group);
    else this.#problems.set(group, `${group.sensor}: ${problem}`);
    this.#output.report(this.#problems.size === 0 ? null : listed([...this.#problems.values()]));
    if (value === null) return false;
    const eventUs = nowMs * 1000;
    const arrivalUs = this.#output.clock.nowMs() * 1000;
    this.#queue.push({ topic, key: group.sensor, value, eventUs, arrivalUs, priority }, value.length);
    return true;
  }

  #refuse(reason: string, request: ReadRequest | null, input: Buffer): void {
    this.#output.count('refused_answer');
    const position =
      request === null
        ? 'not asked'
        : `unit ${request.unit}, ${request.table} ${request.address}, ${request.count} asked`;
    this.#refusal = this.#refusal
      .then(() => this.#output.quarantine([{ reason, position, input }]))
      .catch((error: unknown) => this.#fail(error instanceof Error ? error : new Error(String(error))));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#failed.abort();
  }
}
