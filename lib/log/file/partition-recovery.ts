/**
 * What the holder of the append lock works out from the segments when memory or the end mark does not tell: where the log ends, and
 * what its producers sent. Reads only; the appender acts on it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PenstockError } from '../../errors.ts';
import type { EndMark } from './end-mark.ts';
import { listSegments } from './layout.ts';
import { ProducerStates } from './producer-state.ts';
import { Segment } from './segment.ts';

interface Place {
  readonly directory: string;
  /** "topic/partition", for messages. */
  readonly where: string;
}

/**
 * The end of the log after another boot (`known` is a lower bound) or with a lost mark (`known` is undefined). What is whole and
 * valid behind the known part was perhaps acknowledged, and stays; a torn tail is left out. Throws `corrupt` for a flaw that no
 * power cut can leave: in a segment that was full, or, without a known end, in front of good batches.
 */
export function findEnd(directory: string, where: string, known: EndMark | undefined): EndMark {
  const bases = listSegments(directory);
  const lastBase = bases.at(-1);
  if (lastBase === undefined) throw new PenstockError('corrupt', `${where}: ${directory} has no segment`);
  const start = known?.segmentBase ?? lastBase;
  let end = { offset: known?.endOffset ?? start, position: known?.position ?? 0 };
  for (const base of bases.filter((candidate) => candidate >= start)) {
    if (base > start) {
      if (base !== end.offset) throw missing(where, end.offset, base);
      end = { offset: base, position: 0 };
    }
    const segment = new Segment(directory, base);
    try {
      const size = segment.size();
      if (size < end.position) {
        throw new PenstockError('corrupt', `${segment.path} ends at byte ${size}, ${end.position} were written`);
      }
      end = segment.verify(end, size);
      const isTornTail = base === lastBase && (known !== undefined || !segment.hasBatchBehind(end.position, size));
      if (end.position < size && !isTornTail) {
        throw new PenstockError('corrupt', `${segment.path} at byte ${end.position}: a damaged batch amid good ones`);
      }
    } finally {
      segment.close();
    }
  }
  return { endOffset: end.offset, segmentBase: lastBase, position: end.position };
}

/** The producers as of the mark: from what is `known`, or the snapshot where that is further, and the headers behind it. */
export function statesAt(place: Place, mark: EndMark, known: ProducerStates | undefined): ProducerStates {
  if (known?.nextOffset === mark.endOffset) return known;
  const bases = listSegments(place.directory);
  const earliest = bases[0] ?? 0n;
  const isUsable = (states: ProducerStates | undefined): states is ProducerStates =>
    states !== undefined && states.nextOffset >= earliest && states.nextOffset <= mark.endOffset;
  let states = isUsable(known) ? known : new ProducerStates(earliest);
  if (states.nextOffset < mark.segmentBase || states !== known) {
    const snapshot = readSnapshot(place.directory);
    if (isUsable(snapshot) && snapshot.nextOffset > states.nextOffset) states = snapshot;
  }
  for (const base of bases) {
    const nextBase = bases.find((candidate) => candidate > base) ?? mark.endOffset;
    if (states.nextOffset < nextBase) replay(place.directory, base, mark, states);
  }
  if (states.nextOffset !== mark.endOffset) throw missing(place.where, states.nextOffset, mark.endOffset);
  return states;
}

function replay(directory: string, base: bigint, mark: EndMark, states: ProducerStates): void {
  const segment = new Segment(directory, base);
  try {
    const limit = base === mark.segmentBase ? mark.position : segment.size();
    const start = segment.locate(states.nextOffset, limit);
    if (start === undefined) return;
    segment.scan(start.position, start.offset, limit, (header) => {
      states.record(header);
      return true;
    });
  } finally {
    segment.close();
  }
}

function missing(where: string, from: bigint, next: bigint): PenstockError {
  return new PenstockError('corrupt', `${where}: offsets ${from} to ${next - 1n} are missing`);
}

function readSnapshot(directory: string): ProducerStates | undefined {
  try {
    return ProducerStates.decode(readFileSync(join(directory, 'producers')));
  } catch {
    // Absent or unreadable: it only saves time.
    return undefined;
  }
}
