/** What programs wrote to staged files, what of it was promised and committed, and what a mount may find behind a power cut or the end of its worker. */
import type { Overlay } from '../../fs-gateway/data/overlay.ts';
import type { Flush, StagedFile } from '../../fs-gateway/data/staged-file.ts';

/** A byte that is written, or a truncate. */
export type Change = { readonly at: number; readonly value: number } | { readonly cut: number };

/** Offset -> the byte there; what is missing reads as zero, or is behind the end. */
type Content = ReadonlyMap<number, number>;

function changed(content: Content, changes: readonly Change[]): Map<number, number> {
  const after = new Map(content);
  for (const change of changes) {
    if ('value' in change) after.set(change.at, change.value);
    else for (const at of after.keys()) if (at >= change.cut) after.delete(at);
  }
  return after;
}

function sizeAfter(size: number, changes: readonly Change[]): number {
  for (const change of changes) size = 'value' in change ? Math.max(size, change.at + 1) : change.cut;
  return size;
}

/** One inode, as programs and the metadata have it. */
export class ModelFile {
  /** What was done here, in order. */
  readonly changes: Change[] = [];
  /** So many of them are committed, and were promised by an answer, or by one that may come. */
  committed = 0;
  promised = 0;
  promising = 0;
  /** In the metadata, with what another node has written there. */
  content = new Map<number, number>();
  size = 0;
  flushing: { readonly flush: Flush; readonly changes: number; readonly bytes: Staged } | undefined;
  /** Nobody here will hear of its commit, and none is made any more. */
  isUnsettled = false;

  get #uncommitted(): readonly Change[] {
    return this.changes.slice(this.committed);
  }

  /** Where a byte was ever written. */
  get offsets(): ReadonlySet<number> {
    return new Set(this.changes.flatMap((change) => ('value' in change ? change.at : [])));
  }

  /** What is there when the worker was killed and the next one has committed what it found. */
  expected(at: number): number | undefined {
    return changed(this.content, this.#uncommitted).get(at);
  }

  get expectedSize(): number {
    return sizeAfter(this.size, this.#uncommitted);
  }

  /** How many of the changes the next mount may find behind the cut, of those that are not committed. */
  get #ends(): readonly number[] {
    const first = Math.max(this.committed, this.promised);
    return Array.from({ length: Math.max(first, this.promising) - first + 1 }, (_, n) => first + n);
  }

  /** What may be there behind the cut, when all that the next mount finds is committed. */
  allowed(at: number): ReadonlySet<number | undefined> {
    const allowed = new Set<number | undefined>();
    for (const end of this.#ends) {
      const found = this.changes.slice(this.committed, end);
      allowed.add(changed(this.content, found).get(at));
      // Of what was written over it since, as much as the disk has.
      if (!changed(new Map(), found).has(at)) continue;
      for (const later of this.changes.slice(end)) if ('value' in later && later.at === at) allowed.add(later.value);
    }
    return allowed;
  }

  get allowedSizes(): readonly number[] {
    return this.#ends.map((end) => sizeAfter(this.size, this.changes.slice(this.committed, end)));
  }
}

/** Of the offsets that are staged: a byte, or undefined for what reads as zero. */
export type Staged = ReadonlyMap<number, number | undefined>;

export function stagedBytes(file: StagedFile, overlay: Overlay, offsets: ReadonlySet<number>): Staged {
  const bytes = new Map<number, number | undefined>();
  for (const at of offsets) {
    if (overlay.covers(at, at + 1)) bytes.set(at, overlay.coversWithData(at, at + 1) ? byteAt(file, at) : undefined);
  }
  return bytes;
}

export function foundIn(file: StagedFile | undefined, { offsets }: ModelFile): Staged {
  return file === undefined ? new Map<number, undefined>() : stagedBytes(file, file.active, offsets);
}

function byteAt(file: StagedFile, at: number): number {
  const byte = Buffer.alloc(1);
  file.load(at, byte, 0, 1);
  return byte[0] ?? 0;
}
