/**
 * What is done to the volume, as something that goes on without the request that asked for it: its state, how far it is, and what came of it.
 *
 *   {VOLUME}operations / <id>     Kept as JSON
 *
 * Invariants: an id stands for one request; its repeats (idempotency.ts) are answered with what came of the first, and do again only what was interrupted or failed for a reason
 * that passes. A copy and the record that says that it is done become true in one commit, and nothing replaces that. Whoever is answered finds the record as it is.
 * Failure: of a server that is killed the sessions end, and its operations show as interrupted; what they had begun, `fs gc` removes. One that only lost its session and whose
 * operation was asked for again elsewhere meanwhile ends its own attempt, and leaves the record to the other. A cancellation may come by any server: it stands in the record, where
 * the one that does the work looks each SAVE_MS; what is done before that is done. While the engine is away the last state is kept here and written when
 * it is back.
 * Limits: one at a time, so that two do not slow down all mounts, and WAITING_MAX wait; KEPT_MAX records, of which the oldest that have ended go first; a record is
 * written each SAVE_MS while something moves. Lists of what there is do not wait for changes, but for each other.
 */
import { createHash, randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Clock } from '../lib/clock.ts';
import { describeError, isCode, PenstockError } from '../lib/errors.ts';
import { parseJson, scanJson } from '../lib/lake/scan.ts';
import type { Key, Stored, Version, Write } from '../lib/meta/engine.ts';
import type { Connections } from './connections.ts';
import { HttpProblem, httpStatus } from './problem.ts';
import { Turns } from './share.ts';
import { volumeOperationSchema, type VolumeOperation } from './volume-schemas.ts';
import type { OnProgress, VolumeTools } from './volume-tools.ts';

const WAITING_MAX = 8;
const KEPT_MAX = 200;
const SAVE_MS = 1000;
const ONE = { total: 1, parties: 1 };

const keptSchema = volumeOperationSchema.extend({
  /** Each time that it is begun has its own. */
  attempt: z.string(),
  /** Of the server that does it. */
  session: z.number(),
  /** What was asked for, hashed. */
  request: z.string(),
  /** It failed, and may succeed later. */
  retryable: z.boolean(),
  /** Who wants it to end before it is done. */
  cancelBy: z.string().nullable().default(null),
});
type Kept = z.output<typeof keptSchema>;

interface Asked {
  readonly id: string;
  /** By its operationId. */
  readonly operation: string;
  readonly target: string;
  readonly by: string;
  readonly body: unknown;
  /** What is none of our errors is for the server's log. */
  readonly onUnexpected: (error: unknown) => void;
}

type Ended = Pick<VolumeOperation, 'state' | 'error'>;

interface Hooks<T> {
  readonly onProgress: OnProgress;
  /** The record that says that this came of it. */
  readonly alongside: (result: T) => Write;
}

interface Live {
  kept: Kept;
  changed: boolean;
  /** Of its record, as this server wrote it last. */
  version: Version | null;
  saving: Promise<void>;
  /** Another server has begun it again: the record is not for this one any more. */
  isLost: boolean;
  /** Leaves the queue of those that wait. */
  readonly leave: AbortController;
  /** What it ended with. */
  failure: Error | undefined;
  readonly ended: Promise<void>;
}

const isOver = ({ state }: VolumeOperation): boolean => state !== 'waiting' && state !== 'running';

export class VolumeOperations {
  readonly #connections: Connections;
  readonly #clock: Clock;
  readonly #tools: VolumeTools;
  readonly #ending: AbortSignal;
  readonly #lists = new Turns(ONE, WAITING_MAX);
  readonly #changes = new Turns(ONE, WAITING_MAX);
  /** Those of this server by attempt, until their last state is written. */
  readonly #live = new Map<string, Live>();
  #timer: NodeJS.Timeout | undefined;

  constructor(connections: Connections, clock: Clock, tools: VolumeTools, ending: AbortSignal) {
    this.#connections = connections;
    this.#clock = clock;
    this.#tools = tools;
    this.#ending = ending;
  }

  /** What takes no long time. Throws `unavailable` when too many wait, and what `work` throws. */
  quick<T>(work: (tools: VolumeTools) => Promise<T>): Promise<T> {
    return this.#lists.run(null, () => work(this.#tools));
  }

  /** What has come of it within `waitMs`; else the operation, which goes on, and where that is here, what it ends as. Throws what `work` throws until then, and `unavailable` when too many wait. */
  async run<T extends object>(
    asked: Asked,
    schema: z.ZodType<T>,
    waitMs: number,
    work: (tools: VolumeTools, hooks: Hooks<T>) => Promise<T>,
  ): Promise<{ readonly result: T } | { readonly operation: VolumeOperation; readonly ended: Promise<Ended> | null }> {
    const known = await this.#begin(asked, schema, work);
    const live = this.#live.get(known.attempt);
    if (live !== undefined) await within(live.ended, waitMs);
    const now = live?.kept ?? known;
    if (now.state === 'done') return { result: schema.parse(now.result) };
    if (now.state !== 'failed' && now.state !== 'cancelled')
      return { operation: now, ended: live?.ended.then(() => live.kept) ?? null };
    const { status = 500, code = 'internal', detail = '' } = now.error ?? {};
    throw live?.failure ?? new HttpProblem(status, code, detail);
  }

  /** Throws `not-found`. */
  async get(id: string): Promise<VolumeOperation> {
    const [stored] = await this.#connections.engine.read([this.#key(id)]);
    const kept = keptOf(stored);
    if (kept === null) throw new PenstockError('not-found', `there is no operation ${id}, or no longer`);
    return (await this.#shown([kept]))[0] ?? kept;
  }

  /**
   * Has it end at its next step; one that waits has ended when this returns, where it is of this server. Once more is the same. Throws `not-found`, `denied` for another's, unless
   * `ofOthers`, and `conflict` for what has ended in another way.
   */
  async cancel(id: string, by: string, ofOthers: boolean): Promise<VolumeOperation> {
    const { engine } = this.#connections;
    const key = this.#key(id);
    for (;;) {
      const operation = await this.get(id);
      if (operation.by !== by && !ofOthers) {
        throw new PenstockError(
          'denied',
          `operation ${id} is ${operation.by}'s: an administrator cancels what others began`,
        );
      }
      if (operation.state === 'cancelled') return operation;
      if (isOver(operation)) throw new PenstockError('conflict', `operation ${id} is over: ${operation.state}`);
      const [stored] = await engine.read([key]);
      const kept = keptOf(stored);
      if (kept === null || isOver(kept)) {
        // Its work has ended, and what was open for it has not yet.
        if (kept !== null) await this.#live.get(kept.attempt)?.ended;
        continue;
      }
      if (kept.cancelBy === null) {
        const value = Buffer.from(JSON.stringify({ ...kept, cancelBy: by }));
        const compare = [{ key, version: stored?.version ?? null }];
        const result = await engine.commit({ compare, write: [{ key, value }], operation: randomUUID() });
        if (!result.ok) continue;
      }
      const live = this.#live.get(kept.attempt);
      if (live === undefined) return this.get(id);
      await this.#save(live);
      if (live.kept.state === 'waiting') await live.ended;
      return live.kept;
    }
  }

  /** The newest first. */
  async list(): Promise<VolumeOperation[]> {
    const { engine } = this.#connections;
    const kept = await Array.fromAsync(scanJson(engine, this.#bucket, keptSchema), ([, record]) => record);
    const newest = kept.sort((a, b) => b.startedMs - a.startedMs || (a.id < b.id ? -1 : 1));
    return this.#shown(newest);
  }

  /** Until what goes on has ended, which it does at its next step. */
  async close(): Promise<void> {
    await Promise.all([...this.#live.values()].map(({ ended }) => ended));
    clearInterval(this.#timer);
  }

  get #bucket(): string {
    return `{${this.#connections.volume}}operations`;
  }

  #key(id: string): Key {
    return { bucket: this.#bucket, field: id };
  }

  /** Those that nobody does any more are interrupted. */
  async #shown(records: readonly Kept[]): Promise<Kept[]> {
    const current = records.map((record) => this.#live.get(record.attempt)?.kept ?? record);
    if (current.every(isOver)) return current;
    const sessions = await this.#connections.engine.sessions();
    const alive = new Set(sessions.filter(({ live }) => live).map(({ id }) => id));
    return current.map((record) =>
      isOver(record) || this.#live.has(record.attempt) || alive.has(record.session)
        ? record
        : interrupted(record, 'the server that did it was killed, or has lost the metadata engine'),
    );
  }

  /** Unless it was begun before. */
  async #begin<T extends object>(
    asked: Asked,
    schema: z.ZodType<T>,
    work: (tools: VolumeTools, hooks: Hooks<T>) => Promise<T>,
  ): Promise<Kept> {
    const { engine } = this.#connections;
    const { body, onUnexpected, ...said } = asked;
    const request = createHash('sha256')
      .update(JSON.stringify([asked.operation, asked.target, body]))
      .digest('base64url');
    const key = this.#key(asked.id);
    const [stored] = await engine.read([key]);
    const before = keptOf(stored);
    if (before !== null) {
      if (before.request !== request) {
        throw new PenstockError(
          'conflict',
          'Idempotency-Key: an earlier request with this key asked for something else',
          {
            retryable: false,
          },
        );
      }
      const [shown = before] = await this.#shown([before]);
      if (shown.state !== 'interrupted' && !(shown.state === 'failed' && shown.retryable)) return shown;
    }
    if (this.#live.size > WAITING_MAX) {
      throw new PenstockError('unavailable', `${WAITING_MAX} changes of the volume are waiting already`);
    }
    await this.#makeRoom();
    const nowMs = this.#clock.nowMs();
    const kept: Kept = {
      ...{ ...said, state: 'waiting', startedMs: nowMs, changedMs: nowMs, progress: null, result: null, error: null },
      ...{ attempt: randomUUID(), session: engine.sessionId, request, retryable: false, cancelBy: null },
    };
    const compare = [{ key, version: stored?.version ?? null }];
    const result = await engine.commit({ compare, write: [this.#write(kept)], operation: randomUUID() });
    // A repeat that came in the same moment.
    if (!result.ok) return keptOf((await engine.read([key]))[0]) ?? kept;
    this.#go(kept, result.version, schema, work, onUnexpected);
    return kept;
  }

  #go<T extends object>(
    kept: Kept,
    version: Version,
    schema: z.ZodType<T>,
    work: (tools: VolumeTools, hooks: Hooks<T>) => Promise<T>,
    onUnexpected: Asked['onUnexpected'],
  ): void {
    const { promise: ended, resolve: end } = Promise.withResolvers<undefined>();
    const live: Live = {
      ...{ kept, version, ended, changed: false, saving: Promise.resolve(), isLost: false, failure: undefined },
      leave: new AbortController(),
    };
    this.#live.set(kept.attempt, live);
    this.#timer ??= setInterval(() => void this.#saveAll(), SAVE_MS).unref();
    const say = (change: Partial<Kept>): void => {
      live.kept = { ...live.kept, ...change, changedMs: this.#clock.nowMs() };
      live.changed = true;
    };
    const done = (result: T): Partial<Kept> => ({
      state: 'done',
      result: Object.fromEntries(Object.entries(schema.parse(result))),
    });
    const hooks: Hooks<T> = {
      onProgress: (phase, number) => {
        this.#assertGoesOn(live);
        say({ progress: { phase, done: number } });
      },
      alongside: (result) => this.#write({ ...live.kept, ...done(result), changedMs: this.#clock.nowMs() }),
    };
    const run = async (): Promise<T> => {
      this.#assertGoesOn(live);
      say({ state: 'running' });
      return work(this.#tools, hooks);
    };
    this.#changes
      .run(null, run, live.leave.signal)
      .then(
        (result) => say(done(result)),
        (error: unknown) => {
          if (this.#ending.aborted) {
            say(interrupted(live.kept, 'the server has ended'));
            return;
          }
          if (live.kept.cancelBy !== null && isCode(error, 'aborted')) {
            say(cancelled(live.kept.cancelBy));
            return;
          }
          if (!(error instanceof PenstockError)) onUnexpected(error);
          live.failure = error instanceof Error ? error : new Error(String(error));
          say(failed(error));
        },
      )
      .then(() => this.#save(live))
      .finally(() => end(undefined))
      // Writing goes on each SAVE_MS.
      .catch(() => undefined);
  }

  #assertGoesOn({ isLost, kept }: Live): void {
    if (this.#ending.aborted) throw new PenstockError('aborted', 'the server ends');
    if (isLost) throw new PenstockError('aborted', 'it was begun again by another server');
    if (kept.cancelBy !== null) throw new PenstockError('aborted', 'it was cancelled');
  }

  async #saveAll(): Promise<void> {
    for (const live of this.#live.values()) {
      // It is tried again; meanwhile this server knows.
      await this.#save(live).catch(() => undefined);
    }
  }

  /** One after the other, so that the last state stays. */
  #save(live: Live): Promise<void> {
    return (live.saving = live.saving.catch(() => undefined).then(() => this.#saveNow(live)));
  }

  async #saveNow(live: Live): Promise<void> {
    const { engine } = this.#connections;
    if (!isOver(live.kept)) await this.#hear(live);
    const isNews = live.changed || live.kept.session !== engine.sessionId;
    live.kept = { ...live.kept, session: engine.sessionId };
    const { kept } = live;
    if (isNews) {
      live.changed = false;
      try {
        await this.#commit(live, kept);
      } catch (error) {
        live.changed = true;
        throw error;
      }
    }
    if (!isOver(kept)) return;
    this.#live.delete(kept.attempt);
    if (this.#live.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Whether it was cancelled by another server. */
  async #hear(live: Live): Promise<void> {
    const [stored] = await this.#connections.engine.read([this.#key(live.kept.id)]);
    const written = keptOf(stored);
    if (written?.attempt === live.kept.attempt && written.cancelBy !== null) this.#stop(live, written.cancelBy);
  }

  #stop(live: Live, cancelBy: string): void {
    live.kept = { ...live.kept, cancelBy };
    live.leave.abort(new PenstockError('aborted', 'it was cancelled'));
  }

  /** Only over what this attempt wrote here: the work itself may have written what came of it, and another server may have begun it again. */
  async #commit(live: Live, kept: Kept): Promise<void> {
    const { engine } = this.#connections;
    const compare = [{ key: this.#key(kept.id), version: live.version }];
    const result = await engine.commit({ compare, write: [this.#write(kept)], operation: randomUUID() });
    if (result.ok) {
      live.version = result.version;
      return;
    }
    const [mismatch] = result.mismatches;
    const current = mismatch?.kind === 'value' ? mismatch.current : null;
    const written = keptOf(current);
    if (written?.attempt === kept.attempt && !isOver(written)) {
      // Ours, whose answer was lost, or it was cancelled. Nothing else of this attempt is written before its end, so this is twice at most.
      live.version = current?.version ?? null;
      if (written.cancelBy !== null) this.#stop(live, written.cancelBy);
      await this.#commit(live, { ...kept, cancelBy: written.cancelBy });
      return;
    }
    live.isLost = written?.attempt !== kept.attempt;
    if (!isOver(kept) || written === null) return;
    live.kept = written;
    live.failure = undefined;
  }

  #write(kept: Kept): Write {
    return { key: this.#key(kept.id), value: Buffer.from(JSON.stringify(kept)) };
  }

  async #makeRoom(): Promise<void> {
    const { engine } = this.#connections;
    if ((await engine.count(this.#bucket)) < KEPT_MAX) return;
    const over = (await this.list()).filter(isOver);
    const write = over.slice(KEPT_MAX / 2).map(({ id }) => ({ key: this.#key(id), value: null }));
    await engine.commit({ write });
  }
}

function keptOf(stored: Stored | null | undefined): Kept | null {
  return stored == null ? null : (keptSchema.safeParse(parseJson(stored.value)).data ?? null);
}

function interrupted(kept: Kept, why: string): Kept {
  const detail = `${why}: ask for it again; what it had begun is removed by \`penstock fs gc\``;
  return { ...kept, state: 'interrupted', error: { status: 503, code: 'interrupted', detail } };
}

function cancelled(by: string): Partial<Kept> {
  const detail = `cancelled by ${by}: of a copy nothing is seen, and \`penstock fs gc\` removes it; what was removed or brought back until then stays so, and a quota is to be set again`;
  return { state: 'cancelled', error: { status: 409, code: 'conflict', detail } };
}

function failed(error: unknown): Partial<Kept> {
  const isOurs = error instanceof PenstockError;
  return {
    state: 'failed',
    retryable: isOurs && error.retryable,
    error: isOurs
      ? { status: httpStatus(error.code), code: error.code, detail: describeError(error) }
      : { status: 500, code: 'internal', detail: 'an unexpected error; it is in the log of the server' },
  };
}

async function within(work: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const elapsed = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)));
  await Promise.race([work, elapsed]);
  clearTimeout(timer);
}
