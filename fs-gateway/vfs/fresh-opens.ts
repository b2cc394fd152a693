/**
 * Close-to-open: an open(2) that begins after a close, or a change of the name, on another mount was answered sees that. The feed tells of it within
 * milliseconds, but pushes news and proves nothing, and what the worker has heard the kernel may not know yet: so an open asks the engine for the inode, and
 * whether the names by which the kernel knows it still lead there, in one round trip (docs/decisions/0036, 0058).
 *
 * Invariants
 * - The answer to an open comes behind what its kernel has to forget: attributes (the size!) and pages of an older version.
 * - A file is opened only if all names that the kernel was told of it led to it at a moment of the open, or if a look of the same open(2) has found it, which
 *   asked the engine. Anything else is ESTALE once: the kernel then looks the name up anew, within the same open(2).
 *   What that look found is opened, also when it lost its name in the meantime, as on a local disk: the kernel would give a second ESTALE to the program.
 * - A file that is opened again without a name (/proc/self/fd) has no look behind the ESTALE, and is opened then.
 * Nothing is asked for what never changes: files of the lake's tables, and of snapshots.
 * Limits: the kernel is waited for SETTLED_MAX_MS at most, which it takes only where it cannot be told. Threads of a pid namespace that the mount does not
 * see have one number, and count as one thread.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { INODE_FROZEN, INODE_IMMUTABLE } from '../../lib/volume/inode.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import type { Name } from '../meta/record-reader.ts';
import type { VolumeView } from '../meta/view.ts';
import { nodeOrThrow } from './context.ts';
import { Errno, PosixError } from './operations.ts';
import type { Caller, KernelNotifier, Result } from './operations.ts';
import type { ToldName, ToldNames } from './told-names.ts';

/** A supervisor that is stopped, or a page that waits for the store, holds up what the kernel is told: that is nobody's reason not to open. */
const SETTLED_MAX_MS = 1000;
/** From an ESTALE to the open that repeats it: a look between them waits for the engine. */
const REPEAT_MAX_MS = 5000;
const REPEATS_MAX = 1024;

export interface FreshOpensOptions {
  readonly view: VolumeView;
  readonly told: ToldNames;
  /** Opens believe what the feed has told (`-o openCache`). */
  readonly cached: boolean;
  monotonicMs(): number;
  /** Without one there is no kernel, and whoever opens an inode means that one. */
  readonly notifier: Pick<KernelNotifier, 'settled'> | undefined;
}

interface Refused {
  readonly atMs: number;
  /** What the repeated open may open: the same one, or what the last look has found. */
  readonly ino: number;
}

export class FreshOpens {
  readonly #options: FreshOpensOptions;
  /** Threads whose last open was ESTALE. */
  readonly #refused = new BoundedMap<number, Refused>(REPEATS_MAX);

  constructor(options: FreshOpensOptions) {
    this.#options = options;
  }

  /** Whether a look of this thread belongs to an open(2) that was ESTALE, and has to ask the engine. */
  looksAgain({ pid }: Caller): boolean {
    return this.#refusedOf(pid) !== undefined;
  }

  /** What such a look has found. */
  hasLooked({ pid }: Caller, node: Node | null): void {
    const refused = this.#refusedOf(pid);
    if (refused === undefined) return;
    if (node === null) this.#refused.delete(pid);
    else this.#refused.set(pid, { ...refused, ino: node.ino });
  }

  /** For an open(2). Throws ENOENT, ESTALE. */
  node(caller: Caller, ino: number): Result<Node> {
    const { view, cached, told } = this.#options;
    const known = view.cachedNode(ino);
    if (cached || isForEver(known)) return nodeOrThrow(view, ino);
    // The inode's version alone says that names hold which did at that version.
    if (known !== undefined && !this.looksAgain(caller) && told.areHeld(ino, known.version)) {
      return view.isCurrent(known).then((current) => (current ? this.#settled(known) : this.#settledNode(caller, ino)));
    }
    return this.#settledNode(caller, ino);
  }

  async #settledNode(caller: Caller, ino: number): Promise<Node> {
    return this.#settled(await this.#check(caller, ino));
  }

  /** Once the kernel has forgotten what it is to forget of it. */
  #settled(node: Node): Result<Node> {
    const settled = this.#options.notifier?.settled(BigInt(node.ino));
    if (settled === undefined) return node;
    return Promise.race([settled, sleep(SETTLED_MAX_MS, undefined, { ref: false })]).then(() => node);
  }

  async #check({ pid }: Caller, ino: number): Promise<Node> {
    const { told, notifier } = this.#options;
    const isRepeat = this.#refusedOf(pid)?.ino === ino;
    const names = told.of(ino);
    const { node, strays } = await this.#checked(ino, names ?? []);
    if (node !== null && names !== undefined && strays.length === 0) told.held(ino, names, node.version);
    const isNamed = isForEver(node) || (node !== null && names !== undefined && strays.length === 0);
    if (notifier !== undefined && !isNamed && !isRepeat) {
      this.#refused.set(pid, { atMs: this.#options.monotonicMs(), ino });
      this.#takeBack(ino, names, strays);
      throw new PosixError(Errno.ESTALE, `inode ${ino} may have lost the name by which it is opened`);
    }
    this.#refused.delete(pid);
    return existing(ino, node);
  }

  /** A file that was just looked up, where the kernel may hold its directory, as in CREATE: it is not waited for. Throws ENOENT. */
  async looked(ino: number): Promise<Node> {
    return existing(ino, (await this.#checked(ino, [])).node);
  }

  async #checked(ino: number, names: readonly Name[]): ReturnType<VolumeView['checkedNode']> {
    const { view } = this.#options;
    const known = view.cachedNode(ino);
    const checked = await view.checkedNode(ino, names);
    const { node } = checked;
    if (node !== null && node.version !== known?.version && !isForEver(node)) view.announceStale(ino);
    return checked;
  }

  /** Names that the kernel has of the file and should not; until it knows, opens of the file find them again. */
  #takeBack(ino: number, names: readonly ToldName[] | undefined, strays: readonly Name[]): void {
    const { view, told, notifier } = this.#options;
    if (names === undefined || strays.length === 0) return;
    for (const { parent, name } of strays) view.announceStaleEntry(parent, name);
    const forget = (): void => told.forget(ino, names);
    const settled = notifier?.settled();
    if (settled === undefined) forget();
    else void settled.then(forget);
  }

  #refusedOf(pid: number): Refused | undefined {
    if (this.#refused.size === 0) return undefined;
    const refused = this.#refused.get(pid);
    if (refused === undefined || this.#options.monotonicMs() - refused.atMs < REPEAT_MAX_MS) return refused;
    this.#refused.delete(pid);
    return undefined;
  }
}

function existing(ino: number, node: Node | null): Node {
  if (node === null) throw new PosixError(Errno.ENOENT, `inode ${ino} is gone`);
  return node;
}

function isForEver(node: Node | null | undefined): boolean {
  return node !== null && node !== undefined && (node.inode.flags & (INODE_IMMUTABLE | INODE_FROZEN)) !== 0;
}
