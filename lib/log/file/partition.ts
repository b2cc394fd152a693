/**
 * One partition of a `file:` log as its process sees it: an appender, and readers that follow the end mark.
 *
 * Invariants: a fetch returns batches below the end mark only (end-mark.ts says what that promises).
 * Failure: segments that retention removes under a reader stay readable through its descriptor; the next fetch says `not-found` with
 * the range that is left.
 * Limits: SEGMENTS_OPEN_MAX descriptors for reading. A reader that waits is woken at once by appends of its own process and looks
 * every POLL_MAX_MS at the latest for those of others (1 us a look).
 */
import { join } from 'node:path';
import { syncDirectory } from '../../durable-files.ts';
import { fromSystemError, isCode, PenstockError, systemCode } from '../../errors.ts';
import type { AppendResult, DamagedRange, FetchResult, PartitionOffsets } from '../log.ts';
import { EndFile, type EndMark } from './end-mark.ts';
import { listSegments } from './layout.ts';
import { LEADER_EPOCH, PartitionAppender, type PartitionOptions } from './partition-appender.ts';
import { Segment } from './segment.ts';

const SEGMENTS_OPEN_MAX = 4;
const POLL_MIN_MS = 2;
const POLL_MAX_MS = 50;

export interface PartitionFetch {
  readonly offset: bigint;
  readonly maxBytes: number;
  readonly maxWaitMs: number;
  readonly signal?: AbortSignal;
}

/** What is there of a segment, and how much of it was written: less is there when somebody cut it. */
function bounds(segment: Segment, mark: EndMark): { readonly limit: number; readonly written: number } {
  const size = segment.size();
  const written = segment.base === mark.segmentBase ? mark.position : size;
  return { limit: Math.min(size, written), written };
}

export class Partition {
  readonly #directory: string;
  readonly #where: string;
  readonly #checkTopic: () => void;
  readonly #end: EndFile;
  readonly #appender: PartitionAppender;
  /** In the order of use, the longest unused first. */
  readonly #segments = new Map<bigint, Segment>();
  readonly #sleepers = new Set<() => void>();
  #closed = false;

  constructor(options: Omit<PartitionOptions, 'onCommit'>) {
    this.#directory = options.directory;
    this.#where = options.where;
    this.#checkTopic = options.checkTopic;
    this.#end = new EndFile(join(options.directory, 'end'));
    this.#appender = new PartitionAppender({ ...options, onCommit: () => this.#wake() }, this.#end);
  }

  append(batch: Uint8Array): Promise<AppendResult> {
    return this.#appender.append(batch);
  }

  async offsets(): Promise<PartitionOffsets> {
    const mark = await this.#mark();
    const earliest = listSegments(this.#directory)[0] ?? mark.segmentBase;
    return { earliest, end: mark.endOffset, leaderEpoch: LEADER_EPOCH };
  }

  async fetch(request: PartitionFetch): Promise<FetchResult> {
    const deadline = performance.now() + request.maxWaitMs;
    for (let pollMs = POLL_MIN_MS; ; pollMs = Math.min(2 * pollMs, POLL_MAX_MS)) {
      request.signal?.throwIfAborted();
      this.#checkTopic();
      const mark = await this.#mark();
      const leftMs = deadline - performance.now();
      if (request.offset !== mark.endOffset || leftMs <= 0) return this.#read(request, mark);
      await this.#sleep(Math.min(pollMs, leftMs), request.signal);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#wake();
    await this.#appender.close();
    for (const segment of this.#segments.values()) segment.close();
    this.#segments.clear();
    this.#end.close();
  }

  async #mark(): Promise<EndMark> {
    if (this.#closed) throw new PenstockError('closed', `${this.#where}: the log is closed`);
    const mark = this.#end.read();
    if (mark?.isOfThisBoot === true) return mark;
    await this.#appender.recover();
    const recovered = this.#end.read();
    if (recovered === undefined) {
      throw new PenstockError(
        'corrupt',
        `${this.#where}: the end mark in ${this.#directory} does not keep what is written`,
      );
    }
    return recovered;
  }

  #read(request: PartitionFetch, mark: EndMark): FetchResult {
    const { offset, maxBytes } = request;
    const answer = { endOffset: mark.endOffset, lastStableOffset: mark.endOffset, leaderEpoch: LEADER_EPOCH };
    if (offset === mark.endOffset) return { ...answer, batches: [], nextOffset: offset };
    const bases = listSegments(this.#directory);
    const base = bases.findLast((candidate) => candidate <= offset);
    if (base === undefined || offset > mark.endOffset) {
      throw new PenstockError(
        'not-found',
        `${this.#where}: offset ${offset} is outside of ${bases[0] ?? mark.segmentBase} to ${mark.endOffset}`,
      );
    }
    const segment = this.#segment(base);
    if (segment === undefined) return this.#read(request, mark); // Retention removed it since it was listed.
    const { limit, written } = bounds(segment, mark);
    try {
      return { ...answer, ...segment.readFrom(offset, limit, maxBytes) };
    } catch (error) {
      if (limit === written || !isCode(error, 'corrupt')) throw error;
      throw new PenstockError('corrupt', `${segment.path} ends at byte ${limit}, ${written} were written`, {
        cause: error,
      });
    }
  }

  /** See `Log.damagedRange`. The copy is `<offset>.damaged` beside the segment, and goes with the topic. */
  async damagedRange(offset: bigint): Promise<DamagedRange | null> {
    const mark = await this.#mark();
    const bases = listSegments(this.#directory);
    const base = bases.findLast((candidate) => candidate <= offset);
    if (base === undefined || offset >= mark.endOffset) return null;
    const segment = this.#segment(base);
    const damage = segment?.damageAt(offset, bounds(segment, mark).limit);
    if (segment === undefined || damage === undefined) return null;
    const nextOffset = damage.next?.offset ?? bases.find((candidate) => candidate > offset) ?? mark.endOffset;
    const bytes = damage.end - damage.position;
    const where = `${segment.path} at byte ${damage.position}`;
    if (bytes === 0) return { nextOffset, description: `${where}: the rest of the segment is missing` };
    const copy = join(this.#directory, `${String(offset).padStart(20, '0')}.damaged`);
    try {
      await segment.copyTo(copy, damage.position, damage.end);
      await syncDirectory(this.#directory);
    } catch (error) {
      throw fromSystemError(error, `cannot keep a copy of the damaged bytes in ${copy}`);
    }
    return { nextOffset, description: `${where}: ${bytes} bytes are damaged, kept in ${copy}` };
  }

  #segment(base: bigint): Segment | undefined {
    let segment = this.#segments.get(base);
    this.#segments.delete(base);
    try {
      segment ??= new Segment(this.#directory, base);
    } catch (error) {
      if (error instanceof PenstockError && systemCode(error.cause) === 'ENOENT') return undefined;
      throw error;
    }
    this.#segments.set(base, segment);
    for (const [unusedBase, unused] of this.#segments) {
      if (this.#segments.size <= SEGMENTS_OPEN_MAX) break;
      unused.close();
      this.#segments.delete(unusedBase);
    }
    return segment;
  }

  #wake(): void {
    for (const wake of [...this.#sleepers]) wake();
  }

  #sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', wake);
        this.#sleepers.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      signal?.addEventListener('abort', wake);
      this.#sleepers.add(wake);
    });
  }
}
