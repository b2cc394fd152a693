/**
 * Send intents: what the uplink is about to send, on disk before it is sent. After a crash they say which readings may or may not
 * have arrived, and under which identity.
 *
 * The file is a list of lines `<crc32c, 8 hex digits> <JSON>`, each one of
 *
 *    { intent }                 a batch that may be sent from now on
 *    { replaces, intents }      the batches `replaces` will never be sent again; their readings are in `intents` now
 *    { done }                   the batch of that id is stored, or given up
 *    { frontier }               the readings of a lane from `from` to `last` are stored or given up
 *
 * Invariants
 * - `sync` resolves when everything recorded before is on disk (one fdatasync for all that wait); only then may bytes go out.
 * - An intent covers all readings of its lane (topic, incarnation, partition count, partition) from `from` to `last`: those that are not in
 *   its batch were given up, or delivered before. What is covered is the union of all intents that were ever made, so the present may be
 *   sent before the past. A replacement is one line, and covers what it replaces: all or nothing.
 * - `done` lines are not synced: one that is lost makes the next start look the batch up.
 * Failure: a torn last line is cut at opening. With a damaged line before it nothing in the file can be trusted to be whole, so the file is
 * set aside by name and the uplink starts again behind what the spool knows to be delivered: what was in flight may then be in the log
 * twice, under one identity, and the compactor removes the second. After a failed write the file is written anew by the next `sync`,
 * because a torn line may stand in it.
 * Limits: rewritten to what is still needed when it is above REWRITE_BYTES; what is needed is bounded by the batches in flight.
 */
import { crc32c } from '@node-rs/crc32';
import { mkdir, open, readFile, rename, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { syncDirectory } from '../../lib/durable-files.ts';
import { fromSystemError, systemCode } from '../../lib/errors.ts';
import { mergeRanges, type SeqRange } from '../seq-ranges.ts';
import { freeCorruptName } from '../set-aside.ts';

const REWRITE_BYTES = 1 << 20;

const decimal = z.string().regex(/^\d+$/).transform(BigInt);
const laneShape = {
  topic: z.string(),
  incarnation: z.string(),
  partitions: z.int().positive(),
  partition: z.int().nonnegative(),
};
/** Keys that a newer version added are passed over: after a way back to this one its file is whole, and no damage. */
const intentSchema = z.object({
  ...laneShape,
  id: z.int().nonnegative(),
  topicId: z.string(),
  producerId: decimal,
  producerEpoch: z.int(),
  baseSequence: z.int().nonnegative(),
  /** Where the sequence numbers begin that it covers. A version that delivered in order only did not say: all of them. */
  from: decimal.default(0n),
  /** Whether its readings carry the mark of a backlog. */
  replayed: z.boolean().default(false),
  /** Sequence numbers of the first and last reading; in between are those that belong to the lane. */
  first: decimal,
  last: decimal,
  records: z.int().positive(),
  timestampMs: z.int(),
  crc: z.int(),
  bytes: z.int(),
  /** The batch lies at this offset or behind it, if it is stored and the log was not cut (known-end.ts). */
  fromOffset: decimal,
  /** The leader epoch under which the log had got there; a version that did not say could not tell. */
  fromEpoch: z.int().nonnegative().nullable().default(null),
});
const frontierSchema = z.object({ ...laneShape, from: decimal.default(0n), last: decimal });
const lineSchema = z.union([
  z.object({ intent: intentSchema }),
  z.object({ replaces: z.array(z.int()), intents: z.array(intentSchema) }),
  z.object({ done: z.int() }),
  z.object({ frontier: frontierSchema }),
]);

export type SendIntent = Readonly<z.output<typeof intentSchema>>;
export type NewIntent = Omit<SendIntent, 'id'>;
export type LaneKey = Pick<SendIntent, 'topic' | 'incarnation' | 'partitions' | 'partition'>;
type Line = z.output<typeof lineSchema>;

interface LaneIntents {
  readonly key: LaneKey;
  /** Neither stored nor given up, in the order they were made. */
  readonly open: Map<number, SendIntent>;
  settled: readonly SeqRange[];
}

export class SendIntents {
  /** Where a damaged file was put at the opening. */
  readonly setAside: string | undefined;
  readonly #path: string;
  readonly #durablyAcknowledged: (topic: string) => bigint;
  readonly #lanes = new Map<string, LaneIntents>();
  readonly #laneOf = new Map<number, LaneIntents>();
  #file: FileHandle;
  #fileBytes: number;
  #nextId = 0;
  #pending: string[] = [];
  #mustRewrite = false;
  #running: Promise<void> | undefined;
  #queued: Promise<void> | undefined;

  private constructor(
    path: string,
    file: FileHandle,
    setAside: string | undefined,
    durablyAcknowledged: (topic: string) => bigint,
  ) {
    this.#path = path;
    this.#file = file;
    this.setAside = setAside;
    this.#fileBytes = 0;
    this.#durablyAcknowledged = durablyAcknowledged;
  }

  /** Opens or makes the file. `durablyAcknowledged` says which readings nobody will ask about again. */
  static async open(path: string, durablyAcknowledged: (topic: string) => bigint): Promise<SendIntents> {
    try {
      await mkdir(dirname(path), { recursive: true });
      const text = await readFile(path, 'utf8').catch((error: unknown) => {
        if (systemCode(error) === 'ENOENT') return '';
        throw error;
      });
      const lines = wholeLines(text);
      const setAside = lines === undefined ? await setFileAside(path) : undefined;
      const intents = new SendIntents(path, await open(path, 'a'), setAside, durablyAcknowledged);
      for (const line of lines ?? []) intents.#apply(line);
      await intents.#rewrite();
      return intents;
    } catch (error) {
      throw fromSystemError(error, `cannot open ${path}`);
    }
  }

  /** Batches that were perhaps sent, in the order they were made. */
  unresolved(): readonly SendIntent[] {
    return [...this.#lanes.values()].flatMap(({ open }) => [...open.values()]);
  }

  /** For each lane, the readings that are stored, given up or in an intent (but these): a start leaves them out. */
  covered(except: readonly SendIntent[]): readonly { readonly key: LaneKey; readonly ranges: readonly SeqRange[] }[] {
    return [...this.#lanes.values()].map(({ key, open, settled }) => ({
      key,
      ranges: mergeRanges([...settled, ...[...open.values()].filter((one) => !except.includes(one)).map(rangeOf)]),
    }));
  }

  record(intent: NewIntent): SendIntent {
    const made = { ...intent, id: this.#nextId };
    this.#write({ intent: made });
    return made;
  }

  replace(replaced: readonly SendIntent[], intents: readonly NewIntent[]): readonly SendIntent[] {
    const made = intents.map((intent, index) => ({ ...intent, id: this.#nextId + index }));
    this.#write({ replaces: replaced.map(({ id }) => id), intents: made });
    return made;
  }

  /** The batch is stored (or given up). Written with whatever is written next. */
  resolve(intent: SendIntent): void {
    this.#write({ done: intent.id });
  }

  /** Throws `full`, `io`; may be called again. */
  sync(): Promise<void> {
    if (this.#running === undefined) {
      this.#running = this.#flush().finally(() => {
        this.#running = undefined;
      });
      return this.#running;
    }
    // What is being written may miss the caller's lines: the next round has them, one round for all that wait.
    this.#queued ??= this.#running
      .catch(() => {
        // Reported to those who wait for that round.
      })
      .then(() => {
        this.#queued = undefined;
        return this.sync();
      });
    return this.#queued;
  }

  async close(): Promise<void> {
    try {
      await this.sync();
    } finally {
      await this.#file.close();
    }
  }

  #write(line: Line): void {
    this.#apply(line);
    this.#pending.push(formatLine(line));
  }

  async #flush(): Promise<void> {
    const text = this.#pending.splice(0).join('');
    try {
      // The state in memory holds what was pending as well.
      if (this.#mustRewrite || this.#fileBytes > REWRITE_BYTES) {
        await this.#rewrite();
      } else if (text !== '') {
        await this.#file.appendFile(text);
        await this.#file.datasync();
        this.#fileBytes += Buffer.byteLength(text);
      }
    } catch (error) {
      this.#mustRewrite = true;
      throw fromSystemError(error, `cannot write ${this.#path}`);
    }
  }

  async #rewrite(): Promise<void> {
    const text = this.#neededLines().join('');
    const temporary = `${this.#path}.new`;
    const file = await open(temporary, 'w');
    try {
      await file.writeFile(text);
      await file.sync();
      await rename(temporary, this.#path);
      await syncDirectory(dirname(this.#path));
    } catch (error) {
      await file.close();
      throw error;
    }
    await this.#file.close();
    this.#file = file;
    this.#fileBytes = Buffer.byteLength(text);
    this.#mustRewrite = false;
  }

  #neededLines(): string[] {
    const lines: string[] = [];
    for (const [name, lane] of this.#lanes) {
      lane.settled = mergeRanges(lane.settled, Number(this.#durablyAcknowledged(lane.key.topic)));
      if (lane.open.size === 0 && lane.settled.length === 0) {
        this.#lanes.delete(name);
        continue;
      }
      for (const { first, last } of lane.settled) {
        lines.push(formatLine({ frontier: { ...lane.key, from: BigInt(first), last: BigInt(last) } }));
      }
      for (const intent of lane.open.values()) lines.push(formatLine({ intent }));
    }
    return lines;
  }

  #apply(line: Line): void {
    if ('frontier' in line) settle(this.#lane(line.frontier), line.frontier);
    else if ('done' in line) {
      const lane = this.#laneOf.get(line.done);
      const intent = lane?.open.get(line.done);
      if (lane === undefined || intent === undefined) return;
      settle(lane, intent);
      this.#drop(line.done);
    } else if ('intent' in line) {
      this.#add(line.intent);
    } else {
      for (const intent of line.intents) this.#add(intent);
      for (const id of line.replaces) this.#drop(id);
    }
  }

  #add(intent: SendIntent): void {
    const lane = this.#lane(intent);
    lane.open.set(intent.id, intent);
    this.#laneOf.set(intent.id, lane);
    this.#nextId = Math.max(this.#nextId, intent.id + 1);
  }

  #drop(id: number): void {
    this.#laneOf.get(id)?.open.delete(id);
    this.#laneOf.delete(id);
  }

  #lane({ topic, incarnation, partitions, partition }: LaneKey): LaneIntents {
    const name = `${topic}/${incarnation}/${partitions}/${partition}`;
    let lane = this.#lanes.get(name);
    if (lane === undefined) {
      lane = { key: { topic, incarnation, partitions, partition }, open: new Map(), settled: [] };
      this.#lanes.set(name, lane);
    }
    return lane;
  }
}

function settle(lane: LaneIntents, covered: Pick<SendIntent, 'from' | 'last'>): void {
  lane.settled = mergeRanges([...lane.settled, rangeOf(covered)]);
}

function rangeOf({ from, last }: Pick<SendIntent, 'from' | 'last'>): SeqRange {
  return { first: Number(from), last: Number(last) };
}

/** The lines of the file without a torn last one; undefined when another one is damaged. */
function wholeLines(text: string): readonly Line[] | undefined {
  const lines = text.split('\n').slice(0, -1);
  const parsed = lines.map(parseLine);
  if (parsed.at(-1) === undefined) parsed.pop();
  return parsed.every((line) => line !== undefined) ? parsed : undefined;
}

async function setFileAside(path: string): Promise<string> {
  const aside = await freeCorruptName(path);
  await rename(path, aside);
  await syncDirectory(dirname(path));
  return aside;
}

function formatLine(line: Line): string {
  const json = JSON.stringify(line, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
  return `${checksum(json)} ${json}\n`;
}

function parseLine(line: string): Line | undefined {
  const json = line.slice(9);
  if (line.slice(0, 8) !== checksum(json)) return undefined;
  return lineSchema.safeParse(JSON.parse(json)).data;
}

function checksum(text: string): string {
  return crc32c(text).toString(16).padStart(8, '0');
}
