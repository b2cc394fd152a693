/**
 * An online dump of all records of a volume (and of its lake: table pointers, offsets, listings), as of one instant.
 *
 * Method: subscribe to the change feed, read everything once, then read again what the feed said had changed meanwhile, and again what
 * changed while that was read, until a round in which nothing changed. What was read then is the state at the end of that round: every
 * commit that changes what a mount shows announces it. Whether the feed has been heard up to now is told by a marker of our own on every
 * shard. Records that no feed tells of (tables, offsets, orphans: few) are read in every round and compared.
 * Invariants: nothing is written to the volume but the markers. Ids in use are never above the counters in the dump.
 * Failure: a lost feed message makes the dump start over, ATTEMPTS_MAX times; a volume that never rests is dumped as inconsistent, and says
 * so: fsck --repair puts such a dump in order after its load.
 * Limits: CHANGED_MAX changed records are remembered; a round is repeated ROUNDS_MAX times.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { Change } from '../../lib/volume/feed.ts';
import { decodeDentry } from '../../lib/volume/dentry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodePointer, decodeSegment } from '../../lib/volume/listing.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import { writeDump } from './dump-file.ts';
import type { DumpLine } from './dump-file.ts';
import { bucketKind, holdsNumbers } from './dump-buckets.ts';
import { FeedLostError, FeedWatch } from './feed-watch.ts';
import { formatOf } from './tool.ts';
import type { Progress } from './tool.ts';

const ATTEMPTS_MAX = 3;
const ROUNDS_MAX = 50;
const CHANGED_MAX = 2_000_000;

export interface DumpReport {
  readonly volume: string;
  readonly records: number;
  readonly bytes: number;
  /** As of one instant. */
  readonly consistent: boolean;
  /** Times that changed records were read again. */
  readonly rounds: number;
}

export interface DumpOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly clock: Clock;
  readonly path: string;
  readonly progress?: Progress;
}

/** Throws `conflict` when the feed was lost again and again. */
export async function dumpVolume(options: DumpOptions): Promise<DumpReport> {
  const { engine, volume, clock, path } = options;
  const { id } = await formatOf(engine, volume);
  for (let attempt = 1; ; attempt++) {
    const dump = new Dump(options);
    try {
      const startedMs = clock.nowMs();
      const bytes = await writeDump(path, { volume, id, startedMs }, dump.lines(), () => ({
        consistent: dump.consistent,
        takenMs: clock.nowMs(),
      }));
      return { volume, records: dump.records, bytes, consistent: dump.consistent, rounds: dump.rounds };
    } catch (error) {
      if (!(error instanceof FeedLostError)) throw error;
      if (attempt === ATTEMPTS_MAX) throw new PenstockError('conflict', `${error.message} ${attempt} times`);
    }
  }
}

class Dump {
  consistent = false;
  records = 0;
  rounds = 0;
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #tag: string;
  readonly #progress: Progress;
  /** `i<ino>`, `l<ino>`, `e<parent>/<name>`. */
  #changed = new Set<string>();
  /** Buckets that no feed tells of, and a digest of what was read of each. */
  readonly #silent = new Map<string, string>();

  constructor(options: DumpOptions) {
    this.#engine = options.engine;
    this.#keys = new VolumeKeys(options.volume);
    this.#tag = `{${options.volume}}`;
    this.#progress = options.progress ?? (() => undefined);
  }

  async *lines(): AsyncGenerator<DumpLine> {
    const feed: FeedWatch = await FeedWatch.open(this.#engine, this.#keys, (change) => this.#hear(change, feed), true);
    try {
      await feed.catchUp();
      this.#changed.clear();
      for await (const line of this.#everything()) {
        this.#progress('records', ++this.records);
        yield line;
      }
      for (; this.rounds < ROUNDS_MAX && !this.consistent; this.rounds++) {
        await feed.catchUp();
        const changed = this.#changed;
        this.#changed = new Set();
        const silent = await this.#changedSilent(changed.size === 0);
        this.consistent = changed.size === 0 && silent.length === 0;
        for (const bucket of silent) yield* this.#bucket(bucket);
        for (const what of changed) yield* this.#again(what);
        this.#progress('changed records read again', changed.size);
      }
      // Ids are taken in blocks, which no feed tells of: whatever is in use now is below.
      for (const name of ['ino', 'object'] as const) {
        const [value] = await this.#engine.readNumbers([this.#keys.counter(name)]);
        yield ['m', 'n', name, String(value ?? 0n)];
      }
    } finally {
      await feed.close();
    }
  }

  #hear(change: Change, feed: FeedWatch): void {
    if (change.kind === 'entry') this.#changed.add(`e${change.parent}/${change.name}`);
    else if (change.kind === 'inode') this.#changed.add(`i${change.ino}`);
    else if (change.kind === 'listing') this.#changed.add(`l${change.ino}`);
    if (this.#changed.size > CHANGED_MAX) feed.lose(`more than ${CHANGED_MAX} records changed during the dump`);
  }

  async *#everything(): AsyncGenerator<DumpLine> {
    const seen = new Set<string>();
    for await (const bucket of this.#engine.buckets(this.#tag)) {
      const kind = bucketKind(bucket.slice(this.#tag.length));
      if (kind === 'skipped') continue;
      // Redis may name a bucket twice: its second turn is newer, and says the same or more.
      if (kind === 'silent' && !seen.has(bucket)) {
        seen.add(bucket);
        this.#silent.set(bucket, '');
      }
      yield* this.#records(bucket);
    }
  }

  async *#records(bucket: string): AsyncGenerator<DumpLine> {
    const name = bucket.slice(this.#tag.length);
    if (holdsNumbers(name)) {
      for (const [field, value] of await this.#engine.numbers(bucket)) yield ['n', name, field, String(value)];
      return;
    }
    for await (const [field, value] of scanBucket(this.#engine, bucket)) {
      if (name === 'meta' && field !== 'format') continue;
      yield ['v', name, field, value.toString('base64')];
    }
  }

  /** A bucket as it is now, whatever was said before. */
  async *#bucket(bucket: string): AsyncGenerator<DumpLine> {
    yield ['c', bucket.slice(this.#tag.length)];
    yield* this.#records(bucket);
  }

  async *#again(what: string): AsyncGenerator<DumpLine> {
    if (what.startsWith('e')) {
      const [parent, ...rest] = what.slice(1).split('/');
      yield* this.#entry(Number(parent), rest.join('/'));
    } else if (what.startsWith('l')) yield* this.#listing(Number(what.slice(1)));
    else yield* this.#inode(Number(what.slice(1)));
  }

  async *#entry(parent: number, name: string): AsyncGenerator<DumpLine> {
    const key = this.#keys.entry(parent, name);
    const [stored] = await this.#engine.read([key]);
    yield this.#value(key.bucket, name, stored?.value ?? null);
    if (stored !== null && stored !== undefined) yield* this.#inode(decodeDentry(stored.value, parent, name).ino);
  }

  /** An inode and all that belongs to it. */
  async *#inode(ino: number): AsyncGenerator<DumpLine> {
    const keys = [this.#keys.inode(ino), this.#keys.inlineData(ino)];
    const stored = await this.#engine.read(keys);
    for (const [index, { bucket, field }] of keys.entries()) {
      yield this.#value(bucket, field, stored[index]?.value ?? null);
    }
    for (const bucket of [this.#keys.pages(ino), this.#keys.xattrs(ino), this.#keys.subdirectories(ino).bucket]) {
      yield* this.#bucket(bucket);
    }
  }

  async *#listing(directory: number): AsyncGenerator<DumpLine> {
    const bucket = this.#keys.listing(directory);
    const inos = new Set<number>();
    yield ['c', bucket.slice(this.#tag.length)];
    for await (const [field, value] of scanBucket(this.#engine, bucket)) {
      yield this.#value(bucket, field, value);
      if (field === 'p') {
        const pointer = decodePointer(value, directory);
        for (const { ino } of [...pointer.entries, ...pointer.retiredEntries]) inos.add(ino);
      } else for (const { ino } of decodeSegment(value, directory, Number(field))) inos.add(ino);
    }
    // Files of the lake come with their listing, unannounced.
    for (const ino of inos) yield* this.#inode(ino);
  }

  #value(bucket: string, field: string, value: Buffer | null): DumpLine {
    return ['v', bucket.slice(this.#tag.length), field, value === null ? null : value.toString('base64')];
  }

  /** The silent buckets that differ from the last time. With `look`, new ones are looked for: a walk over all buckets' names. */
  async #changedSilent(look: boolean): Promise<string[]> {
    if (look) {
      for await (const bucket of this.#engine.buckets(this.#tag)) {
        const kind = bucketKind(bucket.slice(this.#tag.length));
        if (kind === 'silent' && !this.#silent.has(bucket)) this.#silent.set(bucket, '');
      }
    }
    const changed: string[] = [];
    for (const [bucket, before] of this.#silent) {
      const now = await this.#digest(bucket);
      if (now === before) continue;
      changed.push(bucket);
      this.#silent.set(bucket, now);
      // Files without a name are made unannounced.
      if (bucket === this.#keys.orphans) {
        for await (const [field] of scanBucket(this.#engine, bucket)) this.#changed.add(`i${field}`);
      }
    }
    return changed;
  }

  async #digest(bucket: string): Promise<string> {
    const name = bucket.slice(this.#tag.length);
    const parts: string[] = [];
    if (holdsNumbers(name)) {
      for (const [field, value] of await this.#engine.numbers(bucket)) {
        if (name !== 'n' || (field !== 'ino' && field !== 'object')) parts.push(`${field}\n${value}`);
      }
    } else {
      for await (const [field, value] of scanBucket(this.#engine, bucket)) {
        if (name !== 'meta' || field === 'format') parts.push(`${field}\n${value.toString('latin1')}`);
      }
    }
    const hash = createHash('sha256');
    for (const part of [...new Set(parts)].sort()) hash.update(part, 'latin1').update('\0\0');
    return hash.digest('hex');
  }
}
