/**
 * Which segments (segments.ts) of an earlier worker are those that its journal speaks of.
 *
 * Invariants: of a journal that is whole, one that is older than it says is of no use, and removed. Where frames are lost, one that is newer than it says may have been
 * begun anew, so what the journal speaks of is committed or in it: it is doubtful, and so is what is not there at all. No file has it any more. A whole journal of the same boot
 * knows each segment that has bytes of a staged file: one that is newer is an error of ours, and as doubtful. Behind a power cut it was begun for what was not promised.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Overlay, Range } from './overlay.ts';
import { findSegments, SEGMENT_BYTES, segmentName, segmentSpan } from './segment-file.ts';
import type { FoundSegment, Generations } from './segment-file.ts';

/** A file that an earlier worker had staged. */
export interface AdoptedFile {
  readonly inMemory: boolean;
  active: Overlay;
}

/** Of the journal that speaks of them. */
export interface JournalOrigin {
  /** Frames of it are lost. */
  readonly isDamaged: boolean;
  readonly sameBoot: boolean;
}

/** Bytes of which nobody knows whether they are what was written. */
export interface DoubtfulSegment {
  readonly ino: number;
  /** Of the file, as the journal speaks of them. */
  readonly ranges: readonly Range[];
  /** Of its first byte in the file. */
  readonly offset: number;
  /** What there is; undefined: nothing. */
  readonly path: string | undefined;
}

interface AdoptedSegment {
  readonly ino: number;
  readonly index: number;
  readonly generation: number;
  readonly name: string;
}

export class FoundSegments {
  readonly adopted: AdoptedSegment[] = [];
  /** Inodes with one segment for all. */
  readonly undivided = new Set<number>();
  readonly doubtful: DoubtfulSegment[] = [];
  readonly #dir: string;
  readonly #found: readonly FoundSegment[];
  readonly #adoptedOf = new Map<number, Set<number>>();
  readonly #generations: Generations;

  constructor(dir: string, generations: Generations) {
    this.#dir = dir;
    this.#generations = generations;
    this.#found = findSegments(dir);
  }

  get lastGeneration(): number {
    let last = 0;
    for (const { generation } of this.#found) last = Math.max(last, generation);
    for (const ofFile of this.#generations.values())
      for (const generation of ofFile.values()) last = Math.max(last, generation);
    return last;
  }

  #generationOf(ino: number, index: number): number {
    return this.#generations.get(ino)?.get(index) ?? 0;
  }

  adopt(files: ReadonlyMap<number, AdoptedFile>, { isDamaged, sameBoot }: JournalOrigin): void {
    const mayCount = ({ ino = 0 }: FoundSegment): boolean => isDamaged || (sameBoot && files.has(ino));
    const newer = this.#found.filter((segment) => this.#isNewer(segment) && mayCount(segment));
    for (const { name, ino = 0, index = 0 } of newer) this.#doubt(files.get(ino), ino, index, name);
    for (const segment of this.#found) if (!newer.includes(segment)) this.#take(segment, files);
    for (const [ino, file] of files) {
      for (const index of file.inMemory ? [] : this.#missing(ino, file.active.ranges)) {
        if (isDamaged) this.#doubt(file, ino, index);
        else this.#add(ino, index);
      }
    }
  }

  #isNewer({ ino, index, generation }: FoundSegment): boolean {
    return ino !== undefined && index !== undefined && generation > this.#generationOf(ino, index);
  }

  #take({ name, ino, index, generation }: FoundSegment, files: ReadonlyMap<number, AdoptedFile>): void {
    if (ino !== undefined && files.has(ino) && index === undefined) {
      this.undivided.add(ino);
      this.#add(ino, 0, name);
    } else if (ino !== undefined && files.has(ino) && generation === this.#generationOf(ino, index ?? 0)) {
      this.#add(ino, index ?? 0);
    } else rmSync(join(this.#dir, name), { force: true });
  }

  #add(ino: number, index: number, name?: string): void {
    const generation = this.#generationOf(ino, index);
    this.adopted.push({ ino, index, generation, name: name ?? segmentName(ino, index, generation) });
    const indexes = this.#adoptedOf.get(ino);
    if (indexes === undefined) this.#adoptedOf.set(ino, new Set([index]));
    else indexes.add(index);
  }

  #doubt(file: AdoptedFile | undefined, ino: number, index: number, name?: string): void {
    const [from, to] = segmentSpan(index);
    const path = name === undefined ? undefined : join(this.#dir, name);
    const isStaged = file?.inMemory === false;
    const ranges = isStaged ? file.active.within(from, to).filter(({ kind }) => kind === 'data') : [];
    if (isStaged) file.active = file.active.withoutData(from, to);
    this.doubtful.push({ ino, ranges, offset: from, path });
  }

  /** Somebody has removed them: they are to be known, so that none is begun in their place. */
  #missing(ino: number, ranges: readonly Range[]): ReadonlySet<number> {
    const there = this.#adoptedOf.get(ino);
    if (this.undivided.has(ino)) return new Set();
    const missing = new Set<number>();
    for (const { start, end, kind } of ranges) {
      const last = kind === 'data' ? Math.ceil(end / SEGMENT_BYTES) : 0;
      for (let index = Math.floor(start / SEGMENT_BYTES); index < last; index++)
        if (there?.has(index) !== true) missing.add(index);
    }
    return missing;
  }
}
