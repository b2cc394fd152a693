/**
 * What may be sent: bytes per second and bytes per day.
 *
 * The second is a token bucket over the monotonic clock. Its balance may go below zero by one batch, so that a batch larger than the
 * bucket still goes; the next one waits longer. The day is a window of 24 hours from its first byte; what it has used is on disk
 * before it is sent, in steps (`RESERVE_SHARE`), so a kill loses at most a step of the allowance and never grants one twice.
 *
 * Invariants: the present goes before the backlog, and among each the higher priority; the backlog leaves what is left of the day to
 * the present, in proportion to its time.
 * Failure: within a boot the kernel's uptime says how old the window is, whatever the clock was set to (docs/decisions/0011: a clock may
 * say 1970 until the network is there). The wall clock matters at the first start after another boot only, where nothing else tells how
 * long the machine was off. Set back, the window goes on and is over 24 hours later at the latest; ahead by more than is left of the
 * window, a new one begins. So that a clock that was corrected meanwhile is no such step, the file follows it (CLOCK_LOOK_MS). A
 * damaged file counts as nothing used, and is written anew.
 * Limits: what is counted are batches as they are sent, repeats included; requests and TCP add about 2 %.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import type { BootTime } from '../../lib/boot-time.ts';
import type { Clock } from '../../lib/clock.ts';
import { replaceFile } from '../../lib/durable-files.ts';
import { fromSystemError, systemCode } from '../../lib/errors.ts';

const DAY_MS = 86_400_000;
/** The file is written about a thousand times a day under full use. */
const RESERVE_SHARE = 1 / 1000;
/** The backlog may be ahead of the day's time by this much: two hours. */
const REPLAY_AHEAD_MS = DAY_MS / 12;
/** A timer that is a little early would only be set again. */
const WAIT_MS_MIN = 5;
/** Of a batch that waits: the clock may have been set meanwhile. */
const CLOCK_LOOK_MS = 60_000;
/** What a clock that is kept right by NTP is off by within a day, and far more. */
const CLOCK_STEP_MS = 60_000;

const storedSchema = z.strictObject({
  /** When the window began, by the wall clock. */
  startedMs: z.number(),
  used: z.number().nonnegative(),
  /** How old the window was at `uptimeMs` of a boot; a file of an earlier version has the wall clock only. */
  boot: z
    .strictObject({ id: z.string(), uptimeMs: z.number().nonnegative(), ageMs: z.number().nonnegative() })
    .optional(),
});
type Stored = z.output<typeof storedSchema>;

export interface BudgetOptions {
  /** 0: no limit. */
  readonly bytesPerSecond: number;
  /** 0: no limit. */
  readonly bytesPerDay: number;
  /** Holds what the day has used. */
  readonly path: string;
  readonly clock: Clock;
  readonly boot: BootTime;
}

export interface BudgetStatus {
  readonly bytesPerSecond: number;
  readonly bytesPerDay: number;
  /** Of this day's window. */
  readonly usedToday: number;
  readonly dayEndsInMs: number;
  /** Batches that wait for their share. */
  readonly waiting: number;
}

interface Claim {
  readonly isReplay: boolean;
  readonly priority: number;
}

interface Waiting extends Claim {
  readonly bytes: number;
  readonly go: () => void;
}

export class UplinkBudget {
  readonly #options: BudgetOptions;
  #balance: number;
  #refilledMs: number;
  /** Monotonic. */
  #windowStartMs: number;
  #used: number;
  /** What the file grants. */
  #reserved: number;
  /** When the window began, by the file; undefined: the file says nothing of this window. */
  #storedStartMs: number | undefined;
  readonly #waiting: Waiting[] = [];
  #timer: NodeJS.Timeout | undefined;
  #isGranting = false;

  private constructor(options: BudgetOptions, stored: Stored | undefined, windowAgeMs: number) {
    this.#options = options;
    this.#balance = options.bytesPerSecond;
    this.#refilledMs = options.clock.monotonicMs();
    this.#windowStartMs = this.#refilledMs - windowAgeMs;
    this.#used = stored?.used ?? 0;
    this.#reserved = this.#used;
    this.#storedStartMs = stored?.startedMs;
  }

  /** Throws `denied`, `io` when the file cannot be read. */
  static async open(options: BudgetOptions): Promise<UplinkBudget> {
    const stored = options.bytesPerDay === 0 ? undefined : await readStored(options.path);
    if (stored === undefined) return new UplinkBudget(options, undefined, 0);
    const ageMs = windowAge(stored, options);
    return ageMs >= DAY_MS ? new UplinkBudget(options, undefined, 0) : new UplinkBudget(options, stored, ageMs);
  }

  get isLimited(): boolean {
    return this.#options.bytesPerSecond > 0 || this.#options.bytesPerDay > 0;
  }

  status(): BudgetStatus {
    const { bytesPerSecond, bytesPerDay } = this.#options;
    this.#turnDay();
    return {
      bytesPerSecond,
      bytesPerDay,
      usedToday: this.#used,
      dayEndsInMs: Math.max(0, this.#windowStartMs + DAY_MS - this.#nowMs()),
      waiting: this.#waiting.length,
    };
  }

  /** Resolves when so many bytes may be sent, and takes them; or when the signal fires, without. */
  async take(bytes: number, claim: Claim, signal: AbortSignal): Promise<void> {
    if (!this.isLimited || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const waiting = { ...claim, bytes, go: resolve };
      signal.addEventListener(
        'abort',
        () => {
          const index = this.#waiting.indexOf(waiting);
          if (index >= 0) this.#waiting.splice(index, 1);
          if (this.#waiting.length === 0) clearTimeout(this.#timer);
          resolve();
        },
        { once: true },
      );
      this.#waiting.push(waiting);
      this.#grant();
    });
  }

  #nowMs(): number {
    return this.#options.clock.monotonicMs();
  }

  #grant(): void {
    if (!this.#isGranting) void this.#grantAll();
  }

  async #grantAll(): Promise<void> {
    this.#isGranting = true;
    clearTimeout(this.#timer);
    try {
      await this.#grantInOrder();
    } finally {
      // In the same turn as the last look at `waiting`: a claim from here on is granted by a call of its own.
      this.#isGranting = false;
    }
  }

  /** Never throws. */
  async #grantInOrder(): Promise<void> {
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const waitMs = this.#waitMsFor(next);
      try {
        if (this.#isFileBehindClock()) {
          await this.#store(this.#reserved);
          continue;
        }
        if (waitMs === 0) await this.#reserve(next.bytes);
      } catch {
        // Without a disk for the budget nothing can be sent that counts against it: tried again, as the spool's own writes are.
        this.#timer = setTimeout(() => this.#grant(), 1000);
        return;
      }
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.#grant(), Math.max(WAIT_MS_MIN, Math.min(waitMs, CLOCK_LOOK_MS)));
        return;
      }
      const index = this.#waiting.indexOf(next);
      // Aborted while the file was written.
      if (index < 0) continue;
      this.#waiting.splice(index, 1);
      this.#balance -= next.bytes;
      this.#used += next.bytes;
      next.go();
    }
  }

  #next(): Waiting | undefined {
    return this.#waiting.reduce<Waiting | undefined>(
      (best, each) => (best === undefined || rank(each) > rank(best) ? each : best),
      undefined,
    );
  }

  #waitMsFor({ bytes, isReplay }: Waiting): number {
    const { bytesPerSecond, bytesPerDay } = this.#options;
    const nowMs = this.#nowMs();
    let waitMs = 0;
    if (bytesPerSecond > 0) {
      const refilled = this.#balance + ((nowMs - this.#refilledMs) / 1000) * bytesPerSecond;
      this.#balance = Math.min(bytesPerSecond, refilled);
      this.#refilledMs = nowMs;
      if (this.#balance <= 0) waitMs = (1 - this.#balance / bytesPerSecond) * 1000;
    }
    if (bytesPerDay > 0) {
      this.#turnDay();
      const ageMs = nowMs - this.#windowStartMs;
      // A batch that is larger than a whole day's budget would never go: it takes a whole day.
      const wanted = Math.min(bytesPerDay, this.#used + bytes);
      if (this.#used > 0 && this.#used + bytes > bytesPerDay) waitMs = Math.max(waitMs, DAY_MS - ageMs);
      else if (isReplay) waitMs = Math.max(waitMs, (wanted / bytesPerDay) * DAY_MS - ageMs - REPLAY_AHEAD_MS);
    }
    return waitMs;
  }

  #turnDay(): void {
    const nowMs = this.#nowMs();
    if (nowMs - this.#windowStartMs < DAY_MS) return;
    this.#windowStartMs = nowMs;
    this.#used = 0;
    this.#reserved = 0;
    this.#storedStartMs = undefined;
  }

  /** Before the bytes go out. */
  async #reserve(bytes: number): Promise<void> {
    const { bytesPerDay } = this.#options;
    if (bytesPerDay === 0 || this.#used + bytes <= this.#reserved) return;
    await this.#store(Math.ceil(this.#used + bytes + bytesPerDay * RESERVE_SHARE));
  }

  /** Whether the clock was set since the file was written: at the next boot the file would be taken for an older, or a younger one. */
  #isFileBehindClock(): boolean {
    if (this.#storedStartMs === undefined) return false;
    return Math.abs(this.#startedWallMs() - this.#storedStartMs) > CLOCK_STEP_MS;
  }

  /** By the wall clock as it is now: where it was corrected meanwhile, so is this. */
  #startedWallMs(): number {
    return this.#options.clock.nowMs() - (this.#nowMs() - this.#windowStartMs);
  }

  async #store(used: number): Promise<void> {
    const { path, boot } = this.#options;
    const windowStartMs = this.#windowStartMs;
    const startedMs = this.#startedWallMs();
    const ageMs = this.#nowMs() - windowStartMs;
    const stored: Stored = {
      startedMs,
      used,
      boot: { id: boot.id.toString('hex'), uptimeMs: boot.uptimeMs(), ageMs },
    };
    await replaceFile(path, JSON.stringify(stored));
    // A day that began while the file was written has nothing in it.
    if (windowStartMs !== this.#windowStartMs) return;
    this.#reserved = used;
    this.#storedStartMs = startedMs;
  }
}

function windowAge({ startedMs, boot: written }: Stored, { clock, boot }: BudgetOptions): number {
  const isThisBoot = written !== undefined && written.id === boot.id.toString('hex');
  const ageMs = isThisBoot ? written.ageMs + boot.uptimeMs() - written.uptimeMs : clock.nowMs() - startedMs;
  return Math.max(0, ageMs);
}

/** The present before the backlog, and among each the higher priority; of equals the first. */
function rank({ isReplay, priority }: Claim): number {
  return (isReplay ? 0 : 100) + priority;
}

async function readStored(path: string): Promise<z.output<typeof storedSchema> | undefined> {
  try {
    return storedSchema.safeParse(JSON.parse(await readFile(path, 'utf8'))).data;
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw fromSystemError(error, `cannot read ${path}`);
  }
}
