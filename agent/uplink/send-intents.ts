/**
 * Send intents: what the uplink is about to send, on disk before it is sent. After a crash they say which readings may or may not
 * have arrived, and under which identity.
 *
 * The file is a list of lines `<crc32c, 8 hex digits> <JSON>`, each one of
 *
 *    { intent }                 a batch that may be sent from now on
 *    { replaces, intents }      the batches `replaces` will never be sent again; their readings are in `intents` now
 *    { done }                   the batch of that id is stored, or given up
 *    { frontier }               every reading of a lane up to `last` is stored, given up, or in an intent
 *
 * Invariants
 * - `sync` resolves when everything recorded before is on disk (one fdatasync for all that wait); only then may bytes go out.
 * - Intents of a lane (topic, incarnation, partition count, partition) are made in the order of their readings and cover all of them: below the
 *   highest `last` of a lane no reading is without an intent or behind the frontier. A replacement is one line: all or nothing.
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
import { freeCorruptName } from '../set-aside.ts';

const REWRITE_BYTES = 1 << 20;

const decimal = z.string().regex(/^\d+$/).transform(BigInt);
const laneShape = {
  topic: z.string(),
  incarnation: z.string(),
  partitions: z.int().positive(),
  partition: z.int().nonnegative(),
};
const intentSchema = z.strictObject({
  ...laneShape,
  id: z.int().nonnegative(),
  topicId: z.string(),
  producerId: decimal,
  producerEpoch: z.int(),
  baseSequence: z.int().nonnegative(),
  /** Sequence numbers of the first and last reading; in between are those that belong to the lane. */
  first: decimal,
  last: decimal,
  records: z.int().positive(),
  timestampMs: z.int(),
  crc: z.int(),
  bytes: z.int(),
  /** The batch lies at this offset or behind it, if it is stored. */
  fromOffset: decimal,
});
const frontierSchema = z.strictObject({ ...laneShape, last: decimal });
const lineSchema = z.union([
  z.strictObject({ intent: intentSchema }),
  z.strictObject({ replaces: z.array(z.int()), intents: z.array(intentSchema) }),
  z.strictObject({ done: z.int() }),
  z.strictObject({ frontier: frontierSchema }),
]);

export type SendIntent = Readonly<z.output<typeof intentSchema>>;
export type NewIntent = Omit<SendIntent, 'id'>;
export type LaneKey = Pick<SendIntent, 'topic' | 'incarnation' | 'partitions' | 'partition'>;
type Line = z.output<typeof lineSchema>;

interface LaneIntents {
  readonly key: LaneKey;
  /** In the order they were made; a resolved one stays while an earlier one is open. */
  intents: { readonly intent: SendIntent; resolved: boolean }[];
  frontier: bigint;
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
    return [...this.#lanes.values()].flatMap((lane) => lane.intents.filter((i) => !i.resolved).map((i) => i.intent));
  }

  /** For each lane, the highest reading that is stored, given up or has an intent: a start goes on behind it. */
  covered(): readonly { readonly key: LaneKey; readonly last: bigint }[] {
    return [...this.#lanes.values()].map(({ key, intents, frontier }) => ({
      key,
      last: intents.reduce((last, { intent }) => (intent.last > last ? intent.last : last), frontier),
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
    for (const [name, { key, intents, frontier }] of this.#lanes) {
      const acknowledged = this.#durablyAcknowledged(key.topic);
      if (intents.length === 0 && frontier <= acknowledged) {
        this.#lanes.delete(name);
        continue;
      }
      if (frontier > acknowledged) lines.push(formatLine({ frontier: { ...key, last: frontier } }));
      for (const { intent, resolved } of intents) {
        lines.push(formatLine({ intent }));
        if (resolved) lines.push(formatLine({ done: intent.id }));
      }
    }
    return lines;
  }

  #apply(line: Line): void {
    if ('frontier' in line) {
      const lane = this.#lane(line.frontier);
      if (line.frontier.last > lane.frontier) lane.frontier = line.frontier.last;
    } else if ('done' in line) {
      const lane = this.#laneOf.get(line.done);
      const found = lane?.intents.find(({ intent }) => intent.id === line.done);
      if (lane !== undefined && found !== undefined) {
        found.resolved = true;
        this.#advance(lane);
      }
    } else if ('intent' in line) {
      this.#add(line.intent);
    } else {
      for (const intent of line.intents) this.#add(intent);
      for (const id of line.replaces) this.#drop(id);
    }
  }

  #add(intent: SendIntent): void {
    const lane = this.#lane(intent);
    lane.intents.push({ intent, resolved: false });
    this.#laneOf.set(intent.id, lane);
    this.#nextId = Math.max(this.#nextId, intent.id + 1);
  }

  #drop(id: number): void {
    const lane = this.#laneOf.get(id);
    if (lane === undefined) return;
    this.#laneOf.delete(id);
    lane.intents = lane.intents.filter(({ intent }) => intent.id !== id);
    this.#advance(lane);
  }

  #advance(lane: LaneIntents): void {
    for (let first = lane.intents[0]; first?.resolved === true; first = lane.intents[0]) {
      lane.intents.shift();
      this.#laneOf.delete(first.intent.id);
      if (first.intent.last > lane.frontier) lane.frontier = first.intent.last;
    }
  }

  #lane({ topic, incarnation, partitions, partition }: LaneKey): LaneIntents {
    const name = `${topic}/${incarnation}/${partitions}/${partition}`;
    let lane = this.#lanes.get(name);
    if (lane === undefined) {
      lane = { key: { topic, incarnation, partitions, partition }, intents: [], frontier: 0n };
      this.#lanes.set(name, lane);
    }
    return lane;
  }
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
