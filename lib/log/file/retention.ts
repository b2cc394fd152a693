/**
 * Retention by whole segments, done by the holder of the append lock: a partition without appends keeps what it has.
 *
 * Ages are counted in the time that the machine ran, kept in the file `ages` of the partition; the wall clock has no part in it, so
 * a clock that is set, to whatever year, removes nothing and keeps nothing. Decision record: docs/decisions/0011-age-without-a-clock.md.
 *
 *    crc32c of the line below, 8 hex digits
 *    { "boot": hex, "uptimeMs", "ageMs", "begun": [[base, ageMs], ...] }      JSON on one line
 *
 * `ageMs` is the partition's age as of `uptimeMs` of the boot `boot`; `begun` is the age at which each segment was begun, which is
 * when the one before it got its last record.
 * Invariants: a segment is removed only when the next one was begun longer ago than the retention, and oldest first.
 * Failure: a file that is missing, damaged, or from before a power cut makes segments look younger, never older.
 * Limits: after another boot (or on another machine) what passed since the last check counts as the time since the boot, and as
 * OTHER_BOOT_MS_MAX at most; the time while the machine was off is not counted.
 */
import { crc32c } from '@node-rs/crc32';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { replaceFile, syncDirectory } from '../../durable-files.ts';
import type { BootTime } from '../../boot-time.ts';
import { listSegments, segmentPath } from './layout.ts';

/** A directory that moved to a machine which has been up for a year has not aged by a year. */
const OTHER_BOOT_MS_MAX = 3_600_000;

const milliseconds = z.number().min(0);
const storedSchema = z.object({
  boot: z.string(),
  uptimeMs: milliseconds,
  ageMs: milliseconds,
  begun: z.array(z.tuple([z.string().regex(/^\d{1,19}$/), milliseconds])),
});
type Stored = z.output<typeof storedSchema>;

interface Retained {
  readonly directory: string;
  readonly retentionMs: number;
  readonly boot: BootTime;
}

export class SegmentAges {
  readonly #partition: Retained;
  readonly #uptimeMs: number;
  readonly #ageMs: number;
  readonly #begun: ReadonlyMap<bigint, number>;

  private constructor(partition: Retained, stored: Stored | undefined) {
    const { boot } = partition;
    this.#partition = partition;
    this.#uptimeMs = boot.uptimeMs();
    this.#ageMs = stored === undefined ? 0 : stored.ageMs + elapsedSince(stored, boot, this.#uptimeMs);
    this.#begun = new Map(stored?.begun.map(([base, ageMs]) => [BigInt(base), ageMs]));
  }

  static read(partition: Retained): SegmentAges {
    return new SegmentAges(partition, readStored(agesPath(partition)));
  }

  /** Whether the segment was begun longer ago than the retention. */
  isExpired(base: bigint): boolean {
    return this.#ageMs - this.#begunMs(base) > this.#partition.retentionMs;
  }

  /** Removes, oldest first, the segments whose last record is past its retention. */
  async removeExpired(activeBase: bigint): Promise<void> {
    const { directory } = this.#partition;
    const bases = listSegments(directory);
    let removed = false;
    for (const [index, base] of bases.entries()) {
      const next = bases[index + 1];
      if (base >= activeBase || next === undefined || !this.isExpired(next)) break;
      rmSync(segmentPath(directory, base), { force: true });
      removed = true;
    }
    if (removed) await syncDirectory(directory);
  }

  /** Keeps the ages of the segments that there are. */
  async save(): Promise<void> {
    const stored: Stored = {
      boot: this.#partition.boot.id.toString('hex'),
      uptimeMs: this.#uptimeMs,
      ageMs: this.#ageMs,
      begun: listSegments(this.#partition.directory).map((base) => [String(base), this.#begunMs(base)]),
    };
    const line = JSON.stringify(stored);
    await replaceFile(agesPath(this.#partition), `${checksum(line)}\n${line}\n`);
  }

  /** A segment that is not known was begun at this moment, as far as can be told. */
  #begunMs(base: bigint): number {
    return this.#begun.get(base) ?? this.#ageMs;
  }
}

const agesPath = ({ directory }: Retained): string => join(directory, 'ages');

function elapsedSince(stored: Stored, boot: BootTime, uptimeMs: number): number {
  if (stored.boot !== boot.id.toString('hex')) return Math.min(uptimeMs, OTHER_BOOT_MS_MAX);
  return Math.max(0, uptimeMs - stored.uptimeMs);
}

function readStored(path: string): Stored | undefined {
  try {
    const [crc, line = ''] = readFileSync(path, 'utf8').split('\n');
    return crc === checksum(line) ? storedSchema.parse(JSON.parse(line)) : undefined;
  } catch {
    // Absent in a log of an earlier version; see Failure for the rest.
    return undefined;
  }
}

const checksum = (line: string): string => crc32c(line).toString(16).padStart(8, '0');
