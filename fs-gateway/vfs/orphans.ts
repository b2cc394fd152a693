/**
 * Files without names: unlinked while some mount has them open, or just unlinked, as nobody knows at once whether one has.
 *
 * The last unlink leaves an orphan record (lib/volume/orphan.ts) and an event. A mount that has the file open enters itself in the record
 * when it hears of it, and takes itself out at its last close. The mount that unlinked takes itself out after ORPHAN_GRACE_MS, or at
 * once while no other mount of the volume lives. Whoever is last removes the records, in portions and in the background.
 * Invariants
 * - While a live mount that was heard of within the grace period has the file open, its inode and extents stay.
 * - What is about to be opened here is reserved and stays; an open that meets a removal under way waits for it, and learns whether the file is there.
 * - Objects are never deleted here: gc does, when no extent refers to them and its own grace period is over.
 * Failure: a mount that dies is taken out by the others once its session is over for the grace period (`#sweep`), or by gc.
 * Limits: PORTION files in one commit, SWEEP_MAX records looked at in a sweep.
 */
import type { Clock } from '../../lib/clock.ts';
import { describeError } from '../../lib/errors.ts';
import type { ScanPage } from '../../lib/meta/engine.ts';
import { decodeOrphan, encodeOrphan, mountsAlive, ORPHAN_GRACE_MS } from '../../lib/volume/orphan.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';
import type { Reclaimer } from './reclaim.ts';

const PORTION = 100;
/** Unlinks of this time are removed together. */
const GATHER_MS = 10;
const SWEEP_MS = 60_000;
const SWEEP_MAX = 10_000;

export interface OrphansOptions {
  /** The last name of an inode was removed here. */
  readonly onUnlinked: (ino: number) => void;
  readonly view: VolumeView;
  readonly mountId: string;
  readonly reclaimer: Reclaimer;
  readonly clock: Clock;
  /** Which inodes programs of this mount have open. */
  readonly open: { has(ino: number): boolean; inos(): Iterable<number> };
  report(message: string): void;
}

export class Orphans {
  readonly #options: OrphansOptions;
  /** Files that nobody here has open, and when this mount wants them no more, monotonic. */
  readonly #waiting = new Map<number, number>();
  /** Where this mount is entered because it has the file open. */
  readonly #entered = new Set<number>();
  /** Files that are about to be opened here. */
  readonly #reserved = new Set<number>();
  #timer: NodeJS.Timeout | undefined;
  readonly #sweeper: NodeJS.Timeout;
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(options: OrphansOptions) {
    this.#options = options;
    this.#sweeper = setInterval(() => this.#inBackground('sweep of orphans', () => this.#sweep()), SWEEP_MS).unref();
  }

  /** In the commit that takes the last name, or makes a file without one; `unlinked` has to be called after it. */
  add(change: Change, ino: number): void {
    change.write(this.#options.view.keys.orphan(ino), encodeOrphan([this.#options.mountId]));
  }

  unlinked(ino: number | undefined): void {
    if (ino === undefined) return;
    this.#options.onUnlinked(ino);
    if (this.#options.open.has(ino)) return;
    this.#wait(ino, ORPHAN_GRACE_MS);
  }

  /** The file without names that is about to be opened here, which stays until `opened`; null: it is gone. */
  async reserve(ino: number): Promise<Node | null> {
    this.#reserved.add(ino);
    let node: Node | null = null;
    try {
      await this.removal(ino);
      node = await this.#options.view.node(ino);
    } finally {
      if (node === null) this.#reserved.delete(ino);
    }
    return node;
  }

  /** The open of a file that was reserved is counted, or has failed. */
  opened(ino: number): void {
    this.#reserved.delete(ino);
    if (!this.#options.open.has(ino)) this.#wait(ino, 0);
  }

  /** Behind it, what was open or reserved when it was asked for stays, or is gone. Undefined: nobody here removes it. */
  removal(ino: number): Promise<void> | undefined {
    return this.#waiting.has(ino) ? this.#running?.catch(() => undefined) : undefined;
  }

  #isWanted(ino: number): boolean {
    return this.#reserved.has(ino) || this.#options.open.has(ino);
  }

  /** After the last close here of a file without names. Its ctime is when the last one went. */
  closed(node: Node): void {
    this.#entered.delete(node.ino);
    const ageMs = this.#options.clock.nowMs() - Number(node.inode.ctimeNs / 1_000_000n);
    this.#wait(node.ino, Math.min(Math.max(0, ORPHAN_GRACE_MS - ageMs), ORPHAN_GRACE_MS));
  }

  /** Somebody else changed the inode. */
  inodeChanged(ino: number): void {
    if (!this.#options.open.has(ino) || this.#entered.has(ino)) return;
    this.#inBackground(`inode ${ino}`, () => this.#enter([ino]));
  }

  /** News were missed. */
  everythingChanged(): void {
    const inos = [...this.#options.open.inos()].filter((ino) => !this.#entered.has(ino));
    if (inos.length > 0) this.#inBackground('files that are open', () => this.#enter(inos));
  }

  async #enter(inos: readonly number[]): Promise<void> {
    const { view, open } = this.#options;
    const nodes = await view.nodes(inos);
    for (const ino of inos) {
      const node = nodes.get(ino);
      if (node === undefined) this.#vanished(ino);
      else if (node.inode.nlink === 0 && open.has(ino)) await this.#enterOne(ino);
    }
  }

  #vanished(ino: number): void {
    // There is no record to be in: once is enough.
    if (this.#entered.has(ino)) return;
    this.#entered.add(ino);
    this.#options.report(`inode ${ino} was removed elsewhere while it is open here`);
  }

  async #enterOne(ino: number): Promise<void> {
    const { view, mountId, open } = this.#options;
    const key = view.keys.orphan(ino);
    await view.change(undefined, async (change) => {
      const [record] = await view.read([key]);
      if (record === null || record === undefined) return; // named again, or too late
      const mounts = decodeOrphan(record.value);
      if (mounts.includes(mountId)) return;
      change.expectOther(key, record.version);
      change.write(key, encodeOrphan([...mounts, mountId]));
    });
    // It may have been closed meanwhile, by a close that came before the entry.
    if (open.has(ino)) this.#entered.add(ino);
    else this.#wait(ino, 0);
  }

  #wait(ino: number, ms: number): void {
    this.#waiting.set(ino, this.#options.clock.monotonicMs() + ms);
    this.#schedule(GATHER_MS);
  }

  #schedule(ms: number): void {
    if (this.#closed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#inBackground('orphans', () => this.settle());
    }, ms).unref();
  }

  /** Removes what nobody wants any more; what other mounts may have open waits. */
  settle(): Promise<void> {
    this.#running = (this.#running ?? Promise.resolve()).catch(() => undefined).then(() => this.#settle());
    return this.#running;
  }

  async #settle(): Promise<void> {
    if (this.#waiting.size === 0) return;
    const { mountId, clock, view } = this.#options;
    // Asked before: whoever mounts from now on cannot find these files any more.
    for (const ino of this.#waiting.keys()) if (this.#isWanted(ino)) this.#waiting.delete(ino);
    const unlinked = [...this.#waiting];
    const alive = await this.#alive();
    const alone = [...alive].every((mount) => mount === mountId);
    const nowMs = clock.monotonicMs();
    const ready = unlinked.filter(([, dueMs]) => alone || dueMs <= nowMs).map(([ino]) => ino);
    for (let at = 0; at < ready.length; at += PORTION) {
      const portion = ready.slice(at, at + PORTION);
      await view.nodes(portion);
      await this.#release(portion, alive);
      for (const ino of portion) this.#waiting.delete(ino);
    }
    const next = Math.min(...this.#waiting.values());
    if (Number.isFinite(next)) this.#schedule(Math.max(GATHER_MS, next - nowMs));
  }

  async #alive(): Promise<Set<string>> {
    const { view } = this.#options;
    return mountsAlive(await view.sessions(), view.keys.volume);
  }

  /** Takes this mount out of the records; where nobody else is left, the file is removed. */
  async #release(inos: readonly number[], alive: ReadonlySet<string>): Promise<void> {
    const { view, mountId, reclaimer } = this.#options;
    let involved: number[] = [];
    await view.change(undefined, async (change) => {
      involved = [];
      const records = await view.read(inos.map((ino) => view.keys.orphan(ino)));
      const gone: number[] = [];
      for (const [index, ino] of inos.entries()) {
        const record = records[index] ?? null;
        if (record === null) continue;
        const key = view.keys.orphan(ino);
        const others = decodeOrphan(record.value).filter((mount) => mount !== mountId && alive.has(mount));
        change.expectOther(key, record.version);
        if (others.length > 0) change.write(key, encodeOrphan(others));
        else gone.push(ino);
      }
      involved = await reclaimer.remove(change, gone);
    });
    for (const ino of involved) await reclaimer.reclaim(ino);
  }

  /** Takes over what an earlier worker of this mount, or a mount that is dead, has left. */
  async #sweep(): Promise<void> {
    const { view, mountId } = this.#options;
    if (this.#closed) return;
    // Also what could not be removed, because the metadata engine was away: nothing else comes back to it.
    if (this.#waiting.size > 0) return this.settle();
    const alive = await this.#alive();
    const left: number[] = [];
    let seen = 0;
    for (let cursor: string | null = ''; cursor !== null && seen < SWEEP_MAX;) {
      const page: ScanPage = await view.scanRecords(view.keys.orphans, cursor, PORTION);
      for (const [field, { value }] of page.entries) {
        const mounts = decodeOrphan(value);
        const wanted = mounts.some((mount) => mount !== mountId && alive.has(mount));
        if ((!wanted || mounts.includes(mountId)) && !this.#isWanted(Number(field))) left.push(Number(field));
      }
      seen += page.entries.length;
      cursor = page.cursor;
    }
    const nodes = await view.nodes(left);
    for (const ino of left) {
      const node = nodes.get(ino);
      if (node === undefined) this.#wait(ino, 0);
      else if (node.inode.nlink === 0) this.closed(node);
    }
  }

  /** At the start of a worker. */
  async resume(): Promise<void> {
    await this.#sweep();
    this.everythingChanged();
  }

  #inBackground(what: string, run: () => Promise<void>): void {
    run().catch((error: unknown) => {
      if (!this.#closed) this.#options.report(`${what}: ${describeError(error)}`);
    });
  }

  /** What still waits is left to the next worker, to other mounts, or to gc. */
  async close(): Promise<void> {
    await this.settle().catch((error: unknown) => this.#options.report(`orphans: ${describeError(error)}`));
    this.#closed = true;
    clearTimeout(this.#timer);
    clearInterval(this.#sweeper);
  }
}
