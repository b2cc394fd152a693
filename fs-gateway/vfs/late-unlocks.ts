/** Which locks a program has given back, and the mount still holds, because what was written under them is not committed yet. */
import { setRange } from '../../lib/volume/lock-record.ts';
import type { Lock, Wanted } from '../../lib/volume/lock-record.ts';

export class LateUnlocks {
  readonly #ranges = new Map<number, readonly Lock[]>();

  add(ino: number, wanted: Wanted): void {
    this.#ranges.set(ino, setRange(this.of(ino), { ...wanted, type: 'write' }));
  }

  /** The owner has locked it again, or it was given back. */
  remove(ino: number, wanted: Wanted): void {
    if (!this.#ranges.has(ino)) return;
    const left = setRange(this.of(ino), { ...wanted, type: 'unlock' });
    if (left.length > 0) this.#ranges.set(ino, left);
    else this.#ranges.delete(ino);
  }

  of(ino: number): readonly Lock[] {
    return this.#ranges.get(ino) ?? [];
  }
}
