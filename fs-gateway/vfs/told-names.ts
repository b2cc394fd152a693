/**
 * The names by which the kernel may know each file: an open comes with an inode, and has to ask whether the name that led there still does.
 *
 * Invariants
 * - Every name that the kernel was told of (LOOKUP, READDIRPLUS) or has made, and has not forgotten, is here, unless the file is unknown. Those that it has
 *   forgotten may be here too: the next open of the file finds out, and they go once the kernel was told.
 * - Who changes a name of a file writes the file's inode in the same commit (change.ts). So a name that led there while the inode had a version does so for
 *   as long as the inode has that version: versions never come back.
 * Limits: FILES_MAX files, some 150 bytes each; one that was forgotten is unknown, and so is one with more than NAMES_MAX names. A file that was forgotten and
 * told anew by one name while the kernel still had another of it is checked by the new one only.
 */
import type { Version } from '../../lib/meta/engine.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Name } from '../meta/record-reader.ts';

/** The kernel keeps a name for a minute at most, and looks up 2,000 a second at its busiest here. */
const FILES_MAX = 131_072;
const NAMES_MAX = 8;

export interface ToldName extends Name {
  /** It led to the file while the inode had this version, or behind that; undefined: not known of any. */
  readonly heldAt: Version | undefined;
}

export class ToldNames {
  readonly #files = new BoundedMap<number, readonly ToldName[]>(FILES_MAX);

  /** Undefined: unknown. */
  of(ino: number): readonly ToldName[] | undefined {
    const names = this.#files.get(ino);
    return names !== undefined && names.length > NAMES_MAX ? undefined : names;
  }

  tell(ino: number, { parent, name }: Name, heldAt: Version | undefined): void {
    const names = this.#files.get(ino) ?? [];
    if (names.length > NAMES_MAX || names.some((known) => isSame(known, { parent, name }))) return;
    this.#files.set(ino, [...names, { parent, name, heldAt }]);
  }

  /** The kernel itself has moved what it holds. */
  move(ino: number, from: Name, to: Name, heldAt: Version): void {
    this.tell(ino, to, heldAt);
    const names = this.of(ino);
    if (names !== undefined) {
      this.#files.set(
        ino,
        names.filter((known) => !isSame(known, from)),
      );
    }
  }

  /** All names of the file led to it while its inode had the version, or behind that. */
  areHeld(ino: number, version: Version): boolean {
    return this.of(ino)?.every(({ heldAt }) => heldAt === version) === true;
  }

  /** `names` are those of the file, and all led to it at a moment behind one at which its inode had the version. */
  held(ino: number, names: readonly ToldName[], version: Version): void {
    if (this.#files.get(ino) !== names || names.every(({ heldAt }) => heldAt === version)) return;
    this.#files.set(
      ino,
      names.map((name) => ({ ...name, heldAt: version })),
    );
  }

  /** Unless the file was forgotten since `names` were those of it. */
  forget(ino: number, names: readonly ToldName[]): void {
    if (this.#files.get(ino) === names) this.#files.delete(ino);
  }
}

function isSame(a: Name, b: Name): boolean {
  return a.name === b.name && a.parent === b.parent;
}
