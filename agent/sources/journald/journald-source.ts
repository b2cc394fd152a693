/**
 * Entries of systemd's journal, as journalctl gives them, exactly once into the spool.
 *
 * Invariants: the cursor of the last entry is stored in the same group as the readings up to it. journalctl begins with that entry, which is passed over: so
 * whether it still is there shows, and nothing behind it is skipped or repeated where it is not.
 * Failure: what the journal no longer holds (it was vacuumed, or its file is damaged or gone) is named: a line in the quarantine with both ends of what may be missing, the event
 * `gap`, and a remark. Reading goes on with the nearest entry behind it. A journalctl that ends is started again with backoff.
 * Back-pressure: while the spool takes nothing, journalctl is not read; after HELD_MS it is ended, and started again when there is room. One that waits would hold
 * files open that journald removes, and pass over what it emptied without a word.
 * Limits: those of the delivery queue and of export-format.ts. What no reading is made of moves the stored cursor once in SKIPPED_MAX entries only.
 */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { z } from 'zod';
import { describeError, isCode } from '../../../lib/errors.ts';
import type { NewReading } from '../../spool/frame.ts';
import { Backoff } from '../../uplink/backoff.ts';
import { DeliveryQueue } from '../delivery-queue.ts';
import type { ReadingMapping } from '../reading-parser.ts';
import type { Source, SourceOutput } from '../source.ts';
import { bootArguments, checkArguments, followArguments, lookArguments, nextArguments } from './arguments.ts';
import type { JournaldSourceConfig } from './config.ts';
import { entriesBetween, isSameEntry, realtimeUsOf } from './cursor.ts';
import { ExportParser, type Entry } from './export-format.ts';
import { Journalctl, lookAt, NO_JOURNAL, problemWith } from './journalctl.ts';
import { hasAnyOf, ownMatches, type Match } from './own-entries.ts';
import { cursorOf, isCut, journalReading } from './reading.ts';

const RESTART_MS_MIN = 1000;
const RESTART_MS_MAX = 30_000;
/** A journalctl that ran that long is started again at once. */
const STEADY_MS = 60_000;
const HELD_MS = 10_000;
/** journalctl watches the folders that there were when it was started: one that is mounted or made later is found by the next. */
const SILENT_MS = 120_000;
const SKIPPED_MAX = 1000;
/** A write to the spool so often, for a source whose entries are rare; the journal of any machine goes back further. */
const MOVE_ON_MS = 3_600_000;

const storedSchema = z.strictObject({
  /** Of the last entry that was read; null: there was none when the agent first looked. */
  cursor: z.string().nullable(),
  /** That entry is to be read, too. */
  isUnread: z.boolean().default(false),
});
type Stored = z.output<typeof storedSchema>;

const TIMES = { heldMs: HELD_MS, silentMs: SILENT_MS, moveOnMs: MOVE_ON_MS };

export function journaldSource(config: JournaldSourceConfig, times: Partial<Times> = {}): Source {
  const directory = config.directory === undefined ? null : resolve(config.directory);
  const name = `journald:${directory ?? 'local'}:${config.to}`;
  return {
    name,
    run: (output, signal) =>
      new JournaldSource({ name, config, directory, ...TIMES, ...times }, output, signal).run(), // prettier-ignore
  };
}

interface Times {
  readonly heldMs: number;
  readonly silentMs: number;
  readonly moveOnMs: number;
}

interface Reading extends Times {
  readonly name: string;
  readonly config: JournaldSourceConfig;
  readonly directory: string | null;
}

/** An entry that was read: null where no reading is made of it. */
interface Read {
  readonly cursor: string;
  readonly reading: NewReading | null;
}

class JournaldSource {
  readonly #options: Reading;
  readonly #key: string;
  readonly #output: SourceOutput;
  readonly #failed = new AbortController();
  readonly #stop: AbortSignal;
  readonly #queue: DeliveryQueue<Read>;
  readonly #mapping: ReadingMapping;
  #excluded: readonly Match[] = [];
  #failure: Error | undefined;
  #run: Journalctl | undefined;
  /** The present one was told to end, so that another one is started. */
  #isRenewed = false;
  #whenRoom: (() => void) | undefined;
  #skipped = 0;

  constructor(options: Reading, output: SourceOutput, signal: AbortSignal) {
    const { to: topic, priority, sensor } = options.config;
    this.#options = options;
    this.#key = `${options.name}|cursor`;
    this.#output = output;
    this.#stop = AbortSignal.any([signal, this.#failed.signal]);
    this.#mapping = { input: 'entry', topic, priority, key: { field: sensor }, eventTime: 'ts' };
    this.#queue = new DeliveryQueue({
      deliver: (batch) => this.#deliver(batch),
      onRoom: () => this.#whenRoom?.(),
      onFailure: (error) => {
        this.#failure ??= error;
        this.#failed.abort();
      },
    });
  }

  async run(): Promise<void> {
    const { clock } = this.#output;
    const backoff = new Backoff({ minMs: RESTART_MS_MIN, maxMs: RESTART_MS_MAX, random: Math.random });
    this.#excluded = [...this.#options.config.exclude, ...(await ownMatches())];
    const end = (): void => {
      this.#run?.end();
      this.#whenRoom?.();
    };
    this.#stop.addEventListener('abort', end, { once: true });
    for (let attempt = 0; !this.#isOver(); attempt += 1) {
      const startedMs = clock.monotonicMs();
      const reason = await this.#readUntilItEnds().catch((error: unknown) => {
        if (!isCode(error, 'unavailable', 'corrupt')) throw error;
        return describeError(error);
      });
      // What it gave before its end is stored, so that the next one goes on behind it.
      await this.#queue.idle();
      if (this.#isOver()) break;
      if (reason === null || clock.monotonicMs() - startedMs >= STEADY_MS) attempt = -1;
      if (reason === null) continue;
      this.#output.count('process_end');
      this.#output.report(reason);
      await backoff.wait(Math.max(0, attempt), this.#stop);
    }
    await this.#queue.idle();
    if (this.#failure !== undefined) throw this.#failure;
  }

  // Methods, because the type checker does not see that an await in between can change these.
  #isOver(): boolean {
    return this.#stop.aborted;
  }

  #wasRenewed(): boolean {
    return this.#isRenewed;
  }

  /** Resolves to the reason why journalctl ended, or null where it was to be started anew. */
  async #readUntilItEnds(): Promise<string | null> {
    const { config, directory, silentMs } = this.#options;
    const { problem, isOverWithAnEntry } = await this.#problem();
    await this.#moveOn().catch((error: unknown) => {
      // Seldom needed, and a look without a match takes long in a large journal: reading does not depend on it.
      if (!isCode(error, 'unavailable')) throw error;
    });
    const place = await this.#startPlace();
    const boot = place === undefined && config.start === 'boot' ? await bootId() : null;
    if (this.#isOver()) return null;
    const run = new Journalctl(followArguments(config, directory, { cursor: place?.cursor ?? null, boot }));
    this.#run = run;
    this.#isRenewed = false;
    const silent = setTimeout(() => this.#renew(), silentMs);
    this.#output.report(problem);
    try {
      let before = place?.cursor ?? null;
      for await (const entries of run.entries(new ExportParser(config.maxFieldBytes))) {
        silent.refresh();
        const [first] = entries;
        if (first === undefined) continue;
        const isKnown = before !== null && (await this.#isBehind(before, first)) && place?.isUnread !== true;
        if (this.#isOver()) return null;
        before = null;
        if (isOverWithAnEntry) this.#output.report(null);
        for (const entry of isKnown ? entries.slice(1) : entries) this.#take(entry);
        if (this.#queue.isFull) await new Promise<void>((done) => (this.#whenRoom = done));
      }
    } finally {
      clearTimeout(silent);
      this.#run = undefined;
      run.end();
    }
    const reason = await run.ended();
    return this.#wasRenewed() ? null : reason;
  }

  /** What journalctl has to say before it is read. That is a hint: where it cannot be had, that is the problem until there is an entry. */
  async #problem(): Promise<{ problem: string | null; isOverWithAnEntry: boolean }> {
    try {
      const problem = await problemWith(checkArguments(this.#options.directory), this.#stop);
      return { problem, isOverWithAnEntry: problem === NO_JOURNAL };
    } catch (error) {
      if (!isCode(error, 'unavailable')) throw error;
      return { problem: describeError(error), isOverWithAnEntry: true };
    }
  }

  #renew(): void {
    this.#isRenewed = true;
    this.#run?.end();
  }

  /**
   * Where nothing has come for long, the stored entry may be removed as the oldest of all, and nothing be missing. So the last one takes its place, if
   * between them there is none of what is configured. The order matters: the stored one must still be there when all behind it has been looked at.
   */
  async #moveOn(): Promise<void> {
    const { config, directory, moveOnMs } = this.#options;
    const { cursor: stored, isUnread } = this.#stored() ?? { cursor: null, isUnread: false };
    if (stored === null) return;
    const last = await lookAt(lookArguments(directory, null), this.#stop);
    if (last === null || realtimeUsOf(cursorOf(last)) - realtimeUsOf(stored) < moveOnMs * 1000) return;
    const isOther = (entry: Entry): boolean => !isSameEntry(stored, cursorOf(entry));
    const isToBeRead = (entry: Entry): boolean => isUnread || isOther(entry);
    if ((await lookAt(nextArguments(config, directory, stored), this.#stop, isToBeRead)) !== null) return;
    const first = await lookAt(lookArguments(directory, stored), this.#stop);
    if (first === null || isOther(first)) return;
    await this.#output.deliver([], [{ source: this.#key, state: { cursor: cursorOf(last) } }]);
  }

  #stored(): Stored | undefined {
    return storedSchema.safeParse(this.#output.checkpoint(this.#key)).data;
  }

  /** From where reading goes on; undefined where there is no such place, and it begins as it is configured. */
  async #startPlace(): Promise<Stored | undefined> {
    const { start } = this.#options.config;
    const stored = this.#stored();
    if (stored !== undefined || start === 'beginning') return stored;
    const place = await this.#firstPlace(start);
    if (this.#isOver() || place === undefined) return undefined;
    // Stored at once: what is written while the agent is down, and after the next boot, is new.
    await this.#output.deliver([], [{ source: this.#key, state: place }]);
    return place;
  }

  /** Where nothing of this boot is there yet, it begins behind what there is; where nothing is there at all, it shows with the first entry. */
  async #firstPlace(start: 'boot' | 'end'): Promise<Stored | undefined> {
    const { directory } = this.#options;
    const first = start === 'boot' ? await lookAt(bootArguments(directory, await bootId()), this.#stop) : null;
    if (first !== null) return { cursor: cursorOf(first), isUnread: true };
    const last = await lookAt(lookArguments(directory, null), this.#stop);
    if (last !== null) return { cursor: cursorOf(last), isUnread: false };
    return start === 'boot' ? undefined : { cursor: null, isUnread: false };
  }

  /** Of the first entry, when reading goes on behind `before`: whether it is that one. Where it is gone, that is said before anything behind it is stored. */
  async #isBehind(before: string, entry: Entry): Promise<boolean> {
    const cursor = cursorOf(entry);
    if (isSameEntry(before, cursor)) return true;
    // It may be there, and what is asked for be something else than it was.
    const nearest = await lookAt(lookArguments(this.#options.directory, before), this.#stop);
    if (this.#isOver()) return true;
    const next = nearest === null ? cursor : cursorOf(nearest);
    if (isSameEntry(before, next)) return false;
    const count = entriesBetween(before, next);
    // Nothing but that entry itself is gone.
    if (count === 0) return false;
    const reason =
      `the journal no longer holds the entry of ${timeOf(before)}, behind which reading was to go on: entries up to ${timeOf(next)} may be missing` +
      `${count === null ? '' : ` (${count} of the whole journal)`}: they were removed before they were read (SystemMaxUse, MaxRetentionSec of journald.conf), or their file is damaged`;
    await this.#output.quarantine([{ reason, position: before, input: Buffer.from(`next: ${next}`) }]);
    this.#output.count('gap');
    // Each is said in the log, also one behind another.
    this.#output.remark(null);
    this.#output.remark(reason);
    return false;
  }

  #take(entry: Entry): void {
    const { config } = this.#options;
    const cursor = cursorOf(entry);
    if (hasAnyOf(entry, this.#excluded)) {
      this.#output.count('excluded');
      this.#skipped += 1;
      if (this.#skipped % SKIPPED_MAX === 0) this.#queue.push({ cursor, reading: null }, 0);
      return;
    }
    if (isCut(entry)) this.#output.count('field_cut');
    const reading = journalReading(entry, config, this.#mapping, this.#output.clock.nowMs() * 1000);
    this.#queue.push({ cursor, reading }, reading.value.length);
  }

  async #deliver(batch: readonly Read[]): Promise<void> {
    const last = batch.at(-1);
    if (last === undefined) return;
    const readings = batch.flatMap(({ reading }) => reading ?? []);
    const held = setTimeout(() => this.#renew(), this.#options.heldMs);
    try {
      await this.#output.deliver(readings, [{ source: this.#key, state: { cursor: last.cursor } }]);
    } finally {
      clearTimeout(held);
    }
  }
}

/** Of the machine, also in a container. */
async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim().replaceAll('-', '');
}

function timeOf(cursor: string): string {
  const us = realtimeUsOf(cursor);
  return Number.isNaN(us) ? 'an unknown time' : new Date(us / 1000).toISOString();
}
