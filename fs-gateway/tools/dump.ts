/**
 * An online dump of all records of a volume (and of its lake: table pointers, offsets, listings), as of one instant of the engine. Where the engine
 * gives none (docs/decisions/0055), or loses INSTANTS_TRIED of them, the records are dumped as they are when they are read, and the dump says so: fsck
 * --repair puts such a one in order after its load.
 *
 * Invariants: nothing is written to the volume. Ids in use are never above the counters in the dump.
 */
import type { Clock } from '../../lib/clock.ts';
import { isCode } from '../../lib/errors.ts';
import type { Instant, MetaEngine, MetaReader } from '../../lib/meta/engine.ts';
import { InstantLostError } from '../../lib/meta/instant-lost.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import { writeDump } from './dump-file.ts';
import type { DumpLine } from './dump-file.ts';
import { holdsNumbers, isOfTheMoment } from './dump-buckets.ts';
import { formatOf } from './tool.ts';
import type { Progress } from './tool.ts';

const INSTANTS_TRIED = 2;

export interface DumpReport {
  readonly volume: string;
  readonly records: number;
  readonly bytes: number;
  /** As of one instant. */
  readonly consistent: boolean;
}

export interface DumpOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly clock: Clock;
  readonly path: string;
  readonly progress?: Progress;
}

export async function dumpVolume(options: DumpOptions): Promise<DumpReport> {
  const { engine, volume } = options;
  const { id } = await formatOf(engine, volume);
  for (let attempt = 1; ; attempt++) {
    const instant = attempt <= INSTANTS_TRIED ? await instantOf(engine, new VolumeKeys(volume)) : null;
    try {
      return await dumpOf(options, id, instant);
    } catch (error) {
      // Too much was changed meanwhile.
      if (!(error instanceof InstantLostError)) throw error;
    } finally {
      await instant?.close();
    }
  }
}

async function instantOf(engine: MetaEngine, keys: VolumeKeys): Promise<Instant | null> {
  try {
    return await engine.instant(keys.tag);
  } catch (error) {
    if (isCode(error, 'unsupported', 'held')) return null;
    throw error;
  }
}

async function dumpOf(options: DumpOptions, id: string, instant: Instant | null): Promise<DumpReport> {
  const { engine, volume, clock, path, progress } = options;
  const consistent = instant !== null;
  const startedMs = clock.nowMs();
  let records = 0;
  async function* lines(): AsyncGenerator<DumpLine> {
    for await (const line of everything(instant ?? engine, engine, new VolumeKeys(volume))) {
      records++;
      progress?.('records', records);
      yield line;
    }
  }
  const end = { consistent, takenMs: startedMs };
  const bytes = await writeDump(path, { volume, id, startedMs }, lines(), () =>
    consistent ? end : { ...end, takenMs: clock.nowMs() },
  );
  return { volume, records, bytes, consistent };
}

async function* everything(reader: MetaReader, engine: MetaEngine, keys: VolumeKeys): AsyncGenerator<DumpLine> {
  for await (const bucket of reader.buckets(keys.tag)) {
    const name = bucket.slice(keys.tag.length);
    if (isOfTheMoment(name)) continue;
    if (holdsNumbers(name)) {
      for (const [field, value] of await reader.numbers(bucket)) yield ['n', name, field, String(value)];
      continue;
    }
    for await (const [field, value] of scanBucket(reader, bucket)) {
      if (name !== 'meta' || field === 'format') yield ['v', name, field, value.toString('base64')];
    }
  }
  // Ids are taken in blocks: whatever is in use now is below.
  for (const name of ['ino', 'object'] as const) {
    const [value] = await engine.readNumbers([keys.counter(name)]);
    yield ['m', 'n', name, String(value ?? 0n)];
  }
}
