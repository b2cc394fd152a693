/**
 * Close-to-open: an open(2) that begins after a close on another mount was answered sees what that close committed. The feed tells of it within
 * milliseconds, but pushes news and proves nothing: so an open asks the engine for the inode, one round trip (docs/decisions/0036).
 *
 * Invariants
 * - The answer to an open comes behind what its kernel has to forget: attributes (the size!) and pages of an older version.
 * - A name that the kernel still has of a file that lost it elsewhere is ESTALE once: the kernel then looks the name up anew, within the same open(2).
 *   What that look found is opened, also when it lost its name in the meantime, as on a local disk: the kernel would give a second ESTALE to the program.
 * Nothing is asked for what never changes: files of the lake's tables, and of snapshots.
 * Limits: the kernel is waited for SETTLED_MAX_MS at most, which it takes only where it cannot be told.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { INODE_FROZEN, INODE_IMMUTABLE } from '../../lib/volume/inode.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import type { VolumeView } from '../meta/view.ts';
import { nodeOrThrow } from './context.ts';
import { Errno, PosixError } from './operations.ts';
import type { Caller, Result } from './operations.ts';

/** A supervisor that is stopped, or a page that waits for the store, holds up what the kernel is told: that is nobody's reason not to open. */
const SETTLED_MAX_MS = 1000;
/** From an ESTALE to the open that repeats it: a look between them waits for the engine. */
const REPEAT_MAX_MS = 5000;
const REPEATS_MAX = 1024;

export interface FreshOpensOptions {
  readonly view: VolumeView;
  /** Opens believe what the feed has told (`-o openCache`). */
  readonly cached: boolean;
  monotonicMs(): number;
  /** Resolves when the kernel has all that it was to be told of the inode until now; undefined: it has. */
  settled(ino: bigint): Promise<void> | undefined;
}

export class FreshOpens {
  readonly #options: FreshOpensOptions;
  /** Threads whose last open was ESTALE, and when. */
  readonly #stale = new BoundedMap<number, number>(REPEATS_MAX);

  constructor(options: FreshOpensOptions) {
    this.#options = options;
  }

  /** For an open(2). Throws ENOENT, ESTALE. */
  node(caller: Caller, ino: number): Result<Node> {
    const { view, cached } = this.#options;
    const known = view.cachedNode(ino);
    return cached || isForEver(known) ? nodeOrThrow(view, ino) : this.#settledNode(caller, ino);
  }

  async #settledNode(caller: Caller, ino: number): Promise<Node> {
    const node = await this.check(caller, ino);
    const settled = this.#options.settled(BigInt(ino));
    if (settled !== undefined) await Promise.race([settled, sleep(SETTLED_MAX_MS, undefined, { ref: false })]);
    return node;
  }

  /** The same where the kernel may hold its directory, as in CREATE: it is not waited for. */
  async check({ pid }: Caller, ino: number): Promise<Node> {
    const { view } = this.#options;
    const nowMs = this.#options.monotonicMs();
    const known = view.cachedNode(ino);
    const node = await view.checkedNode(ino);
    if (known !== undefined && known.inode.nlink > 0 && (node === null || node.inode.nlink === 0)) {
      view.forgetNamesOf(ino);
      const isRepeat = nowMs - (this.#stale.get(pid) ?? -Infinity) < REPEAT_MAX_MS;
      if (node === null || !isRepeat) {
        this.#stale.set(pid, nowMs);
        throw new PosixError(Errno.ESTALE, `inode ${ino} has lost its names`);
      }
    }
    this.#stale.delete(pid);
    if (node === null) throw new PosixError(Errno.ENOENT, `inode ${ino} is gone`);
    if (node.version !== known?.version && !isForEver(node)) view.announceStale(ino);
    return node;
  }
}

function isForEver(node: Node | undefined): boolean {
  return node !== undefined && (node.inode.flags & (INODE_IMMUTABLE | INODE_FROZEN)) !== 0;
}
