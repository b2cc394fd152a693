/**
 * What lies where in the directory of a `file:` log.
 *
 *    penstock-log.json                        { "format": 1 }: marks the directory as ours
 *    tmp/                                     topics being made or removed, under a random name
 *    topics/<name>/topic.json                 { id, partitions, retentionMs }
 *    topics/<name>/<partition>/<base>.log     a segment: RecordBatch v2 after RecordBatch v2; <base> is its first offset, 20 digits
 *    topics/<name>/<partition>/<offset>.damaged    a copy of bytes that a reader was told to step over (Log.damagedRange)
 *    topics/<name>/<partition>/end            the durable end (end-mark.ts)
 *    topics/<name>/<partition>/producers      the state of the producers at some offset (producer-state.ts)
 *    topics/<name>/<partition>/ages           how old the segments are (retention.ts)
 *    topics/<name>/<partition>/append.lock, append.turn       the append lock (partition-lock.ts)
 *    groups/<group>/<topic>/<partition>       a group's hint: one offset, decimal
 *
 * A topic is made in `tmp/` and renamed into place whole, and leaves the same way: nobody ever sees half of one.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { PenstockError, fromSystemError, systemCode } from '../../errors.ts';

export const FORMAT_FILE = 'penstock-log.json';
const SEGMENT_PATTERN = /^(\d{20})\.log$/;
/** Kafka's rule for topic names, so that a topic can move to a broker; it also makes every name a safe file name. */
const TOPIC_PATTERN = /^(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}$/;

export interface StoredTopic {
  readonly id: string;
  readonly partitions: number;
  readonly retentionMs: number;
}

export function checkTopicName(name: string): void {
  if (!TOPIC_PATTERN.test(name)) {
    throw new PenstockError(
      'config',
      `'${name}' is not a topic name: expected 1 to 249 of letters, digits, '.', '_' and '-', other than '.' and '..'`,
    );
  }
}

export function topicDirectory(root: string, name: string): string {
  return join(root, 'topics', name);
}

export function hintPath(root: string, group: string, topic: string, partition: number): string {
  return join(root, 'groups', encodeURIComponent(group), topic, String(partition));
}

export function segmentPath(directory: string, base: bigint): string {
  return join(directory, `${String(base).padStart(20, '0')}.log`);
}

/** The base offsets of a partition's segments, ascending. */
export function listSegments(directory: string): bigint[] {
  try {
    // Twenty digits each: the order of the names is that of the offsets.
    return readdirSync(directory)
      .map((name) => SEGMENT_PATTERN.exec(name)?.[1])
      .filter((digits) => digits !== undefined)
      .sort()
      .map(BigInt);
  } catch (error) {
    throw fromSystemError(error, `cannot list ${directory}`);
  }
}

/**
 * The topic as it stands on disk at this moment, null when there is none. Read before every group of appends and every fetch (about
 * 5 us): a topic that another process deleted or made anew is noticed by its id.
 */
export function readTopic(root: string, name: string): StoredTopic | null {
  const path = join(topicDirectory(root, name), 'topic.json');
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw fromSystemError(error, `cannot read ${path}`);
  }
  return parseTopic(text, path);
}

function parseTopic(text: string, path: string): StoredTopic {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new PenstockError('corrupt', `${path} is damaged: it is not JSON`, { cause: error });
  }
  if (
    typeof value === 'object' &&
    value !== null &&
    'id' in value &&
    typeof value.id === 'string' &&
    'partitions' in value &&
    Number.isSafeInteger(value.partitions) &&
    'retentionMs' in value &&
    typeof value.retentionMs === 'number'
  ) {
    return { id: value.id, partitions: Number(value.partitions), retentionMs: value.retentionMs };
  }
  throw new PenstockError('corrupt', `${path} is damaged: expected id, partitions and retentionMs`);
}
