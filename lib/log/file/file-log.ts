/**
 * The embedded Log: `file:DIR?segmentBytes=64MiB`, a directory of segments (layout.ts), for any number of processes of one machine.
 *
 * Invariants
 * - Acknowledged means on disk: fdatasync of the segment, fsync of every new name. Appenders exclude each other by a lock that dies
 *   with its holder (partition-lock.ts); readers take no lock and never see what a power cut could take back (end-mark.ts).
 * - Making and removing a topic are each one rename: another process sees the whole topic or none, told apart by its id.
 * - Producer ids are random 63-bit numbers: unique over processes and restarts without anyone counting.
 * Failure: kill -9 anywhere leaves at most unacknowledged bytes, which the next appender cuts, and folders in `tmp/`, which the next
 * opening removes. A damaged segment is `corrupt`, by file and byte, for whoever reads it; the rest stays readable.
 * Limits: a local file system (fcntl locks, fsync). Files are opened when a partition is first used: five for one that is
 * appended to.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemClock, type Clock } from '../../clock.ts';
import { PenstockError, fromSystemError, systemCode } from '../../errors.ts';
import { parseBytes } from '../../units.ts';
import { pathOfUrl, urlOfPath } from '../../urls.ts';
import type {
  AppendResult,
  DamagedRange,
  FetchRequest,
  FetchResult,
  Log,
  LogProducer,
  PartitionOffsets,
  TopicInfo,
  TopicOptions,
} from '../log.ts';
import { makeDirectory, replaceFile, syncDirectory, writeNewFile } from '../../durable-files.ts';
import { systemBoot, type BootTime } from '../../boot-time.ts';
import { encodeEndMark } from './end-mark.ts';
import {
  FORMAT_FILE,
  checkTopicName,
  hintPath,
  readTopic,
  segmentPath,
  topicDirectory,
  type StoredTopic,
} from './layout.ts';
import { Partition } from './partition.ts';
import { PartitionLock } from './partition-lock.ts';

const SEGMENT_BYTES = '64MiB';
/** Below it a segment would hold less than a batch; above it a file position would not fit 2^53 safely. */
const SEGMENT_BYTES_RANGE = [1024, 2 ** 40] as const;
const PARTITIONS_MAX = 1024;
/** A folder in tmp/ that is older was left by a killed process: making a topic takes milliseconds. */
const LEFTOVER_MS = 3_600_000;

interface OpenTopic {
  readonly info: TopicInfo;
  readonly partitions: readonly (() => Partition)[];
  readonly close: () => Promise<void>;
}

export interface FileLogOptions {
  readonly segmentBytes: number;
  readonly clock: Clock;
  /** What retention goes by; this machine's when it is left out. */
  readonly boot?: BootTime;
}

/** Throws `config`. */
export function parseFileUrl(url: URL): { readonly root: string; readonly segmentBytes: number } {
  const segmentBytes = parseBytes(url.searchParams.get('segmentBytes') ?? SEGMENT_BYTES);
  const unknown = [...url.searchParams.keys()].find((key) => key !== 'segmentBytes');
  if (unknown !== undefined) {
    throw new PenstockError('config', `${url.href}: unknown option '${unknown}', expected segmentBytes`);
  }
  const [min, max] = SEGMENT_BYTES_RANGE;
  if (segmentBytes < min || segmentBytes > max) {
    throw new PenstockError('config', `segmentBytes is ${segmentBytes}, expected ${min} to ${max}`);
  }
  return { root: pathOfUrl(url), segmentBytes };
}

export async function openFileLog(url: URL): Promise<Log> {
  const { root, segmentBytes } = parseFileUrl(url);
  return openFileLogAt(root, { segmentBytes, clock: systemClock });
}

export async function openFileLogAt(root: string, options: FileLogOptions): Promise<Log> {
  try {
    await prepareDirectory(root);
  } catch (error) {
    throw fromSystemError(error, `cannot use ${root} as a log`);
  }
  return new FileLog(root, options);
}

class FileLog implements Log {
  readonly url: string;
  readonly #root: string;
  readonly #options: FileLogOptions;
  readonly #topics = new Map<string, OpenTopic>();
  /** Closing of topics that were removed or made anew by others. */
  readonly #closing = new Set<Promise<void>>();
  #closed = false;

  constructor(root: string, options: FileLogOptions) {
    this.url = urlOfPath('file', root);
    this.#root = root;
    this.#options = options;
  }

  async ensureTopic(name: string, options: TopicOptions): Promise<TopicInfo> {
    checkTopicName(name);
    if (!Number.isSafeInteger(options.partitions) || options.partitions < 1 || options.partitions > PARTITIONS_MAX) {
      throw new PenstockError(
        'config',
        `topic ${name}: ${options.partitions} partitions, expected 1 to ${PARTITIONS_MAX}`,
      );
    }
    const existing = await this.topic(name);
    if (existing !== null) return existing;
    const topic: StoredTopic = { id: randomUUID(), partitions: options.partitions, retentionMs: options.retentionMs };
    try {
      await this.#makeTopic(name, topic);
    } catch (error) {
      throw fromSystemError(error, `cannot make topic ${name}`);
    }
    return this.ensureTopic(name, options);
  }

  async topic(name: string): Promise<TopicInfo | null> {
    checkTopicName(name);
    this.#assertOpen();
    return this.#open(name)?.info ?? null;
  }

  async topics(): Promise<readonly TopicInfo[]> {
    this.#assertOpen();
    const names = readdirSync(join(this.#root, 'topics')).sort();
    return names.map((name) => this.#open(name)?.info).filter((info) => info !== undefined);
  }

  async deleteTopic(name: string): Promise<void> {
    checkTopicName(name);
    const topic = this.#open(name);
    if (topic === undefined) throw unknownTopic(name);
    await this.#forget(name);
    const directory = topicDirectory(this.#root, name);
    const locks: PartitionLock[] = [];
    const removed = join(this.#root, 'tmp', randomUUID());
    try {
      // Under all append locks: nobody is told that an append took effect in a topic that is gone.
      for (let partition = 0; partition < topic.info.partitions; partition++) {
        const lock = new PartitionLock(join(directory, String(partition)));
        locks.push(lock);
        await lock.acquire();
      }
      if (readTopic(this.#root, name)?.id !== topic.info.id) throw unknownTopic(name);
      await rename(directory, removed);
      await syncDirectory(dirname(directory));
    } catch (error) {
      throw fromSystemError(error, `cannot delete topic ${name}`);
    } finally {
      for (const lock of locks) lock.close();
    }
    await rm(removed, { recursive: true, force: true });
  }

  async producer(): Promise<LogProducer> {
    this.#assertOpen();
    const producerId = randomBytes(8).readBigUInt64BE() >> 1n;
    return {
      producerId,
      producerEpoch: 0,
      append: (topic, partition, batch) => this.#append(topic, partition, batch),
    };
  }

  async offsets(topic: string, partition: number): Promise<PartitionOffsets> {
    return this.#partition(topic, partition).offsets();
  }

  async fetch(request: FetchRequest): Promise<FetchResult> {
    const { topic, partition, topicId, signal } = request;
    try {
      const result = await this.#partition(topic, partition, topicId).fetch(request);
      // A folder that was replaced meanwhile may have been read in part.
      this.#partition(topic, partition, topicId);
      return result;
    } catch (error) {
      if (signal?.aborted === true) {
        throw new PenstockError('aborted', `the fetch of ${topic}/${partition} was aborted`, { cause: error });
      }
      // Whatever it met in a topic that is gone, that is the reason.
      if (topicId !== undefined && !this.#closed) this.#partition(topic, partition, topicId);
      throw error;
    }
  }

  async damagedRange(topic: string, partition: number, offset: bigint): Promise<DamagedRange | null> {
    return this.#partition(topic, partition).damagedRange(offset);
  }

  async commitHint(group: string, topic: string, nextOffsets: ReadonlyMap<number, bigint>): Promise<void> {
    checkTopicName(topic);
    this.#assertOpen();
    try {
      for (const [partition, nextOffset] of nextOffsets) {
        const path = hintPath(this.#root, group, topic, partition);
        const temporary = join(this.#root, 'tmp', randomUUID());
        // Not synced: a hint that is lost is given again.
        await mkdir(dirname(path), { recursive: true });
        await writeFile(temporary, String(nextOffset));
        await rename(temporary, path);
      }
    } catch (error) {
      throw fromSystemError(error, `cannot keep the hint of group ${group}`);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#topics.keys()].map((name) => this.#forget(name)));
    await Promise.all(this.#closing);
  }

  #append(topic: string, partition: number, batch: Uint8Array): Promise<AppendResult> {
    try {
      return this.#partition(topic, partition).append(batch);
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Throws `not-found`, also where the topic has another id than the one given. */
  #partition(name: string, index: number, topicId?: string): Partition {
    checkTopicName(name);
    this.#assertOpen();
    const topic = this.#open(name);
    if (topic === undefined) throw unknownTopic(name);
    if (topicId !== undefined && topic.info.id !== topicId) {
      throw new PenstockError('not-found', `topic ${name} of id ${topicId} was deleted, and made anew`);
    }
    const partition = topic.partitions[index];
    if (partition === undefined) {
      throw new PenstockError(
        'not-found',
        `topic ${name} has ${topic.info.partitions} partitions, there is no ${index}`,
      );
    }
    return partition();
  }

  /** The topic as it is on disk now; what was opened under another id is let go. */
  #open(name: string): OpenTopic | undefined {
    const stored = readTopic(this.#root, name);
    const known = this.#topics.get(name);
    if (known !== undefined && known.info.id === stored?.id) return known;
    if (known !== undefined) {
      const closing = this.#forget(name).finally(() => this.#closing.delete(closing));
      this.#closing.add(closing);
    }
    if (stored === null) return undefined;
    const topic = this.#openTopic(name, stored);
    this.#topics.set(name, topic);
    return topic;
  }

  #openTopic(name: string, stored: StoredTopic): OpenTopic {
    const opened = new Map<number, Partition>();
    const open = (index: number): Partition => {
      let partition = opened.get(index);
      if (partition !== undefined) return partition;
      partition = new Partition({
        directory: join(topicDirectory(this.#root, name), String(index)),
        where: `${name}/${index}`,
        segmentBytes: this.#options.segmentBytes,
        retentionMs: stored.retentionMs,
        clock: this.#options.clock,
        boot: this.#options.boot ?? systemBoot,
        checkTopic: () => {
          if (readTopic(this.#root, name)?.id !== stored.id) throw unknownTopic(name);
        },
      });
      opened.set(index, partition);
      return partition;
    };
    return {
      info: { name, id: stored.id, partitions: stored.partitions },
      partitions: Array.from({ length: stored.partitions }, (_, index) => () => open(index)),
      close: async () => {
        await Promise.all([...opened.values()].map((partition) => partition.close()));
      },
    };
  }

  async #forget(name: string): Promise<void> {
    const topic = this.#topics.get(name);
    this.#topics.delete(name);
    await topic?.close();
  }

  async #makeTopic(name: string, topic: StoredTopic): Promise<void> {
    const directory = join(this.#root, 'tmp', randomUUID());
    for (let index = 0; index < topic.partitions; index++) {
      const partition = join(directory, String(index));
      await mkdir(partition, { recursive: true });
      await writeNewFile(segmentPath(partition, 0n), '');
      await writeNewFile(join(partition, 'end'), encodeEndMark({ endOffset: 0n, segmentBase: 0n, position: 0 }));
      await syncDirectory(partition);
    }
    await writeNewFile(join(directory, 'topic.json'), `${JSON.stringify(topic)}\n`);
    await syncDirectory(directory);
    try {
      await rename(directory, topicDirectory(this.#root, name));
    } catch (error) {
      await rm(directory, { recursive: true, force: true });
      // Somebody else was faster, and theirs is as good.
      if (!['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) throw error;
    }
    await syncDirectory(join(this.#root, 'topics'));
  }

  #assertOpen(): void {
    if (this.#closed) throw new PenstockError('closed', `${this.url} is closed`);
  }
}

function unknownTopic(name: string): PenstockError {
  return new PenstockError('not-found', `there is no topic ${name}`);
}

async function prepareDirectory(root: string): Promise<void> {
  await makeDirectory(root);
  const format = await readFormat(root);
  if (format === null) {
    const foreign = (await readdir(root)).find((name) => !['topics', 'tmp', 'groups', 'lost+found'].includes(name));
    if (foreign !== undefined && !foreign.startsWith(FORMAT_FILE)) {
      throw new PenstockError('config', `${root} is not a log of ours: it holds ${foreign}; use an empty directory`);
    }
  } else if (format !== '{"format":1}') {
    throw new PenstockError(
      'unsupported',
      `${root} is a log of another format: ${format}; this version reads format 1`,
    );
  }
  for (const name of ['topics', 'tmp', 'groups']) await makeDirectory(join(root, name));
  if (format === null) await replaceFile(join(root, FORMAT_FILE), '{"format":1}\n');
  const temporary = join(root, 'tmp');
  for (const name of await readdir(temporary)) {
    const path = join(temporary, name);
    const changedMs = await stat(path).then(
      ({ mtimeMs }) => mtimeMs,
      () => Infinity, // Gone meanwhile.
    );
    if (changedMs + LEFTOVER_MS < Date.now()) await rm(path, { recursive: true, force: true });
  }
}

async function readFormat(root: string): Promise<string | null> {
  try {
    return readFileSync(join(root, FORMAT_FILE), 'utf8').trim();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
}
