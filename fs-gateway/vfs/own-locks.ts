/** Locks of this mount by file: what its programs hold, as far as they know, or what they have given back and the mount still holds. */
import { setRange } from '../../lib/volume/lock-record.ts';
import type { Lock, Wanted } from '../../lib/volume/lock-record.ts';

export class OwnLocks {
  readonly #locks = new Map<number, readonly Lock[]>();

  get inos(): readonly number[] {
    return [...this.#locks.keys()];
  }

  of(ino: number): readonly Lock[] {
    return this.#locks.get(ino) ?? [];
  }

  replace(ino: number, locks: readonly Lock[]): void {
    if (locks.length > 0) this.#locks.set(ino, locks);
    else this.#locks.delete(ino);
  }

  add(ino: number, range: Wanted & { readonly type: Lock['type'] }): void {
    this.replace(ino, setRange(this.of(ino), range));
  }

  remove(ino: number, range: Wanted): void {
    if (this.#locks.has(ino)) this.replace(ino, setRange(this.of(ino), { ...range, type: 'unlock' }));
  }
}
