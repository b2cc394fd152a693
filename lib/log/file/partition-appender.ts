/**
 * Appending to one partition. Appends that wait together are written together: one lock, one write, one fdatasync for the group.
 *
 * Invariants
 * - Under the append lock and in this order: write behind the end mark, fdatasync, publish the mark, acknowledge.
 * - Bytes behind the mark belong to nobody: not acknowledged, not visible. Under the same boot they are what a killed appender
 *   left and are cut; after another boot the mark may be old, so valid batches are kept and only a torn tail is cut.
 * - A segment is complete and durable before the next one is made.
 * Failure: an error while writing cuts the file back to the mark and fails the whole group; so does a failed fdatasync, because a
 * second one would report success for pages that were lost. The state of the producers is then read anew.
 * Limits: QUEUE_MAX waiting batches (`unavailable` beyond); GROUP_BYTES a write, by which a segment may exceed its size.
 */
import { close, fdatasync, ftruncate, open, writev } from 'node:fs';
import { fstatSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Clock } from '../../clock.ts';
import { PenstockError, fromSystemError } from '../../errors.ts';
import { BATCH_BYTES_MAX, type AppendResult } from '../log.ts';
import {
  BATCH_HEADER_BYTES,
  checkBatchCrc,
  corruptBatch,
  readBatchHeader,
  stampedHeader,
  viewOf,
  type BatchHeader,
} from '../record-batch.ts';
import { replaceFile, syncDirectory } from '../../durable-files.ts';
import type { BootTime } from '../../boot-time.ts';
import { type EndFile, type EndMark } from './end-mark.ts';
import { segmentPath } from './layout.ts';
import { PartitionLock } from './partition-lock.ts';
import { findEnd, statesAt } from './partition-recovery.ts';
import type { ProducerStates } from './producer-state.ts';
import { SegmentAges } from './retention.ts';

const QUEUE_MAX = 1024;
const GROUP_BYTES = 4 * 2 ** 20;
/** How often the mark itself is made durable: what a scan after a power cut begins with. */
const MARK_SYNC_MS = 1000;
const RETENTION_CHECK_MS = 60_000;
/** The adapter has one leader for ever. */
export const LEADER_EPOCH = 0;

const openFile = promisify(open);
const closeFile = promisify(close);
const sync = promisify(fdatasync);
const truncate = promisify(ftruncate);

export interface PartitionOptions {
  readonly directory: string;
  /** "topic/partition", for messages. */
  readonly where: string;
  readonly segmentBytes: number;
  readonly retentionMs: number;
  readonly clock: Clock;
  readonly boot: BootTime;
  /** Throws `not-found` when the topic is not the one any more that this partition was opened for. */
  readonly checkTopic: () => void;
  /** Called after a commit, to wake readers of this process. */
  readonly onCommit: () => void;
}

interface Waiting {
  readonly batch: Buffer;
  readonly header: BatchHeader;
  readonly resolve: (result: AppendResult) => void;
  readonly reject: (error: unknown) => void;
}

interface Group {
  readonly buffers: Buffer[];
  bytes: number;
  readonly answers: { readonly waiting: Waiting; readonly result: AppendResult }[];
}

export class PartitionAppender {
  readonly #options: PartitionOptions;
  readonly #end: EndFile;
  #lock: PartitionLock | undefined;
  #queue: Waiting[] = [];
  #running: Promise<void> | undefined;
  #writeFd: { readonly base: bigint; readonly fd: number } | undefined;
  #states: ProducerStates | undefined;
  #snapshotOffset = -1n;
  #markSyncedMs = 0;
  #markSync: Promise<void> = Promise.resolve();
  #retentionCheckedMs = -Infinity;
  #turn: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: PartitionOptions, end: EndFile) {
    this.#options = options;
    this.#end = end;
  }

  /** Synchronous up to its place in the queue, so that calls take effect in their order. */
  append(bytes: Uint8Array): Promise<AppendResult> {
    const { where } = this.#options;
    const batch = viewOf(bytes);
    if (this.#closed) return Promise.reject(new PenstockError('closed', `${where}: the log is closed`));
    if (batch.length > BATCH_BYTES_MAX) {
      const message = `${where}: a batch of ${batch.length} bytes is above the limit of ${BATCH_BYTES_MAX}`;
      return Promise.reject(new PenstockError('too-large', message));
    }
    if (this.#queue.length >= QUEUE_MAX) {
      return Promise.reject(new PenstockError('unavailable', `${where}: ${QUEUE_MAX} appends are waiting already`));
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ batch, header: checkedHeader(batch, where), resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Brings the end mark up to date when it is damaged or of another boot. */
  async recover(): Promise<void> {
    await this.#underLock(async () => {
      await this.#currentMark();
    });
  }

  /** Finishes what is queued; a snapshot saves the next start the reading. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#running;
    await this.#turn;
    await this.#markSync;
    try {
      await this.#saveSnapshot();
      if (this.#markSyncedMs > 0) await this.#end.sync();
    } catch {
      // Both only shorten the next start; a full disk or a removed topic must not fail a close.
    }
    if (this.#writeFd !== undefined) await closeFile(this.#writeFd.fd);
    this.#lock?.close();
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0) {
      let taken: Waiting[] = [];
      try {
        await this.#underLock(async () => {
          taken = this.#take();
          await this.#commit(taken);
        });
      } catch (error) {
        this.#states = undefined;
        if (taken.length === 0) taken = this.#queue.splice(0);
        for (const waiting of taken) waiting.reject(error);
      }
    }
    this.#running = undefined;
  }

  #take(): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { batch } of this.#queue) {
      if (count > 0 && bytes + batch.length > GROUP_BYTES) break;
      bytes += batch.length;
      count++;
    }
    return this.#queue.splice(0, count);
  }

  /** One holder of the lock within this process, too: whoever comes waits for those before. */
  #underLock(action: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(() => this.#locked(action));
    this.#turn = turn.catch(() => {
      // Reported to whoever waits for that turn.
    });
    return turn;
  }

  async #locked(action: () => Promise<void>): Promise<void> {
    this.#options.checkTopic();
    this.#lock ??= new PartitionLock(this.#options.directory);
    await this.#lock.acquire();
    try {
      // Once more: the topic may have been removed while we waited.
      this.#options.checkTopic();
      await action();
    } finally {
      this.#lock.release();
    }
  }

  async #commit(taken: readonly Waiting[]): Promise<void> {
    let mark = await this.#currentMark();
    const states = (this.#states = statesAt(this.#options, mark, this.#states));
    const nowMs = this.#options.clock.nowMs();
    mark = await this.#rollIfDue(mark, states);
    const group = this.#arrange(taken, states, nowMs);
    if (group.bytes > 0) {
      const fd = await this.#writable(mark.segmentBase);
      await this.#write(fd, group.buffers, mark.position);
      this.#end.publish({ ...mark, endOffset: states.nextOffset, position: mark.position + group.bytes });
      this.#syncMarkIfDue(nowMs);
    }
    for (const { waiting, result } of group.answers) waiting.resolve(result);
    if (group.bytes > 0) this.#options.onCommit();
  }

  /** Decides about each batch: rejected, answered from memory, or given the next offset. */
  #arrange(taken: readonly Waiting[], states: ProducerStates, nowMs: number): Group {
    const group: Group = { buffers: [], bytes: 0, answers: [] };
    for (const waiting of taken) {
      try {
        const known = states.check(waiting.header, this.#options.where);
        group.answers.push({
          waiting,
          result: { baseOffset: known ?? states.nextOffset, duplicate: known !== null, leaderEpoch: LEADER_EPOCH },
        });
        if (known !== null) continue;
        const header = stampedHeader(waiting.batch, states.nextOffset, LEADER_EPOCH, nowMs);
        group.buffers.push(header, waiting.batch.subarray(BATCH_HEADER_BYTES));
        group.bytes += waiting.batch.length;
        states.record(waiting.header);
      } catch (error) {
        waiting.reject(error);
      }
    }
    return group;
  }

  async #write(fd: number, buffers: readonly Buffer[], position: number): Promise<void> {
    try {
      await writeAll(fd, buffers, position);
      await sync(fd);
    } catch (error) {
      await truncate(fd, position).catch(() => {
        // The next holder of the lock cuts it: it finds bytes behind the mark.
      });
      throw fromSystemError(error, `cannot append to ${this.#options.where}`);
    }
  }

  async #currentMark(): Promise<EndMark> {
    const { directory, where } = this.#options;
    const mark = this.#end.read();
    if (mark?.isOfThisBoot !== true) return this.#recoverMark(mark);
    const fd = await this.#writable(mark.segmentBase);
    const { size } = fstatSync(fd);
    if (size > mark.position) await truncate(fd, mark.position);
    if (size < mark.position) {
      throw new PenstockError(
        'corrupt',
        `${where}: ${segmentPath(directory, mark.segmentBase)} ends at byte ${size}, ${mark.position} were written`,
      );
    }
    return mark;
  }

  async #recoverMark(known: EndMark | undefined): Promise<EndMark> {
    const { directory, where } = this.#options;
    const mark = findEnd(directory, where, known);
    const fd = await this.#writable(mark.segmentBase);
    await truncate(fd, mark.position);
    await sync(fd);
    this.#end.publish(mark);
    await this.#end.sync();
    return mark;
  }

  async #rollIfDue(mark: EndMark, states: ProducerStates): Promise<EndMark> {
    const { directory, segmentBytes, clock } = this.#options;
    const checkedAgo = clock.monotonicMs() - this.#retentionCheckedMs;
    const isFull = mark.position >= segmentBytes;
    if (!isFull && checkedAgo < RETENTION_CHECK_MS) return mark;
    this.#retentionCheckedMs = clock.monotonicMs();
    const ages = SegmentAges.read(this.#options);
    // First, because a roll needs space, too.
    await ages.removeExpired(mark.segmentBase);
    let current = mark;
    if (isFull || (mark.position > 0 && ages.isExpired(mark.segmentBase))) {
      current = { endOffset: mark.endOffset, segmentBase: mark.endOffset, position: 0 };
      // Truncates what a roll that was killed half-way left.
      const fd = await openFile(segmentPath(directory, current.segmentBase), 'w');
      await sync(fd);
      await closeFile(fd);
      await syncDirectory(directory);
      this.#end.publish(current);
      await this.#end.sync();
      await this.#saveSnapshotOf(states);
    }
    await ages.save();
    return current;
  }

  async #writable(base: bigint): Promise<number> {
    if (this.#writeFd?.base === base) return this.#writeFd.fd;
    const path = segmentPath(this.#options.directory, base);
    try {
      const fd = await openFile(path, 'r+');
      if (this.#writeFd !== undefined) await closeFile(this.#writeFd.fd);
      this.#writeFd = { base, fd };
      return fd;
    } catch (error) {
      throw fromSystemError(error, `cannot open ${path}`);
    }
  }

  #syncMarkIfDue(nowMs: number): void {
    if (Math.abs(nowMs - this.#markSyncedMs) < MARK_SYNC_MS) return;
    this.#markSyncedMs = nowMs;
    this.#markSync = this.#markSync
      .then(() => this.#end.sync())
      .catch(() => {
        // The mark is a lower bound; an older one costs a longer scan after a power cut.
      });
  }

  async #saveSnapshot(): Promise<void> {
    if (this.#states !== undefined && this.#states.nextOffset > this.#snapshotOffset) {
      await this.#saveSnapshotOf(this.#states);
    }
  }

  async #saveSnapshotOf(states: ProducerStates): Promise<void> {
    const { nextOffset } = states;
    await replaceFile(join(this.#options.directory, 'producers'), states.encode());
    this.#snapshotOffset = nextOffset;
  }
}

function checkedHeader(batch: Buffer, where: string): BatchHeader {
  if (batch.length < BATCH_HEADER_BYTES) throw corruptBatch(where, 0n, 'shorter than a header');
  const header = readBatchHeader(batch, 0, where);
  if (header.bytes !== batch.length) throw corruptBatch(where, 0n, `${batch.length} bytes instead of ${header.bytes}`);
  if (header.isControl || header.records !== header.lastOffsetDelta + 1 || header.records === 0) {
    throw corruptBatch(where, 0n, 'a producer sends one to many records, without holes');
  }
  checkBatchCrc(batch, header, where);
  return header;
}

async function writeAll(fd: number, buffers: readonly Buffer[], position: number): Promise<void> {
  let rest = buffers.slice();
  let at = position;
  while (rest.length > 0) {
    // IOV_MAX is 1024 on every platform that Node runs on.
    const part = rest.slice(0, 1024);
    const written = await new Promise<number>((resolve, reject) => {
      writev(fd, part, at, (error, count) => (error === null ? resolve(count) : reject(error)));
    });
    at += written;
    rest = dropBytes(rest, written);
  }
}

function dropBytes(buffers: readonly Buffer[], count: number): Buffer[] {
  let left = count;
  let index = 0;
  for (const buffer of buffers) {
    if (buffer.length > left) break;
    left -= buffer.length;
    index++;
  }
  const rest = buffers.slice(index);
  const [first] = rest;
  if (first !== undefined && left > 0) rest[0] = first.subarray(left);
  return rest;
}
