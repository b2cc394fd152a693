/**
 * Invalidations to the kernel: gathered here, written by one thread of the supervisor (notification-writer.ts), because each may wait there for
 * a directory or a page. INC_EPOCH waits for nothing and is written at once. The grant of a lock waits for the others, and an open for those of
 * its inode: what was written before must not be in the kernel's pages as it was.
 *
 * Invariants
 * - One batch is under way at a time; what comes meanwhile is gathered and coalesced: one invalidation per name, one per inode.
 * - At most PENDING_MAX wait. Beyond that all names are dropped at once (INC_EPOCH) and further inodes keep only what was
 *   gathered: their attributes are looked up anew with the names, their pages at the next open (close-to-open).
 * Failure: what was not written when the process dies is lost; the next worker begins with INC_EPOCH.
 */
import type { KernelNotifier } from '../vfs/operations.ts';

const BATCH_MAX = 1_024;
const PENDING_MAX = 65_536;

export type Notification =
  | { readonly type: 'inode'; readonly ino: number; readonly offset: number; readonly length: number }
  | { readonly type: 'entry'; readonly parent: number; readonly name: string };

export interface NotifierStats {
  readonly written: number;
  readonly pending: number;
  readonly overflows: number;
  /** So often all names were dropped at once. */
  readonly epochs: number;
}

export class Notifier implements KernelNotifier {
  readonly #deliver: (batch: readonly Notification[]) => void;
  readonly #writeEpoch: (() => void) | undefined;
  readonly #pending = new Map<string, Notification>();
  #underWay = false;
  #scheduled = false;
  #closed = false;
  #written = 0;
  /** In the batch that is under way. */
  #sent = 0;
  readonly #sentKeys = new Set<string>();
  #overflows = 0;
  #epochs = 0;
  readonly #settling = new Set<{ readonly written: number; readonly resolve: () => void }>();

  /** `deliver` sends a batch, of which `delivered` is told when the kernel has it; without `writeEpoch` the kernel lacks INC_EPOCH. */
  constructor(deliver: (batch: readonly Notification[]) => void, writeEpoch: (() => void) | undefined) {
    this.#deliver = deliver;
    this.#writeEpoch = writeEpoch;
  }

  get stats(): NotifierStats {
    return {
      written: this.#written,
      pending: this.#pending.size,
      overflows: this.#overflows,
      epochs: this.#epochs,
    };
  }

  invalidateInode(ino: bigint, offset: bigint, length: bigint): void {
    const key = `i${ino}`;
    const known = this.#pending.get(key);
    const next = { type: 'inode', ino: Number(ino), offset: Number(offset), length: Number(length) } as const;
    this.#put(key, known?.type === 'inode' ? widen(known, next) : next);
  }

  invalidateEntry(parent: bigint, name: string): void {
    this.#put(`e${parent}/${name}`, { type: 'entry', parent: Number(parent), name });
  }

  incrementEpoch(): boolean {
    if (this.#writeEpoch === undefined) return false;
    this.#epochs++;
    this.#writeEpoch();
    return true;
  }

  settled(ino?: bigint): Promise<void> | undefined {
    if (this.#closed || (this.#pending.size === 0 && !this.#underWay)) return undefined;
    const key = `i${ino}`;
    if (ino !== undefined && !this.#pending.has(key) && !this.#sentKeys.has(key)) return undefined;
    return new Promise((resolve) => {
      this.#settling.add({ written: this.#written + this.#sent + this.#pending.size, resolve });
    });
  }

  #settle(): void {
    const idle = this.#pending.size === 0 && !this.#underWay;
    for (const waiter of this.#settling) {
      if (!idle && !this.#closed && this.#written < waiter.written) continue;
      this.#settling.delete(waiter);
      waiter.resolve();
    }
  }

  /** The batch that was sent is in the kernel. */
  delivered(count: number): void {
    this.#written += count;
    this.#underWay = false;
    this.#sent = 0;
    this.#sentKeys.clear();
    this.#send();
    this.#settle();
  }

  close(): void {
    this.#closed = true;
    this.#settle();
  }

  #put(key: string, notification: Notification): void {
    if (this.#closed) return;
    if (this.#pending.size >= PENDING_MAX && !this.#pending.has(key)) this.#overflow();
    else this.#pending.set(key, notification);
    if (this.#scheduled || this.#underWay) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#send();
    });
  }

  #overflow(): void {
    this.#overflows++;
    if (!this.incrementEpoch()) return;
    for (const [key, notification] of this.#pending) {
      if (notification.type === 'entry') this.#pending.delete(key);
    }
  }

  #send(): void {
    if (this.#underWay || this.#closed || this.#pending.size === 0) return;
    const batch: Notification[] = [];
    for (const [key, notification] of this.#pending) {
      if (batch.length === BATCH_MAX) break;
      batch.push(notification);
      this.#sentKeys.add(key);
      this.#pending.delete(key);
    }
    this.#underWay = true;
    this.#sent = batch.length;
    this.#deliver(batch);
  }
}

type InodeRange = Extract<Notification, { type: 'inode' }>;

/** Attributes alone add nothing to a range; two different ranges become the whole file. */
function widen(a: InodeRange, b: InodeRange): InodeRange {
  if (b.offset < 0 || (a.offset === b.offset && a.length === b.length)) return a;
  return a.offset < 0 ? b : { ...a, offset: 0, length: 0 };
}
