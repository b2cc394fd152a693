/** Retention of the `file:` log goes by the time that the machine ran; whatever the wall clock says, nothing is removed early or kept for ever. */
import fc from 'fast-check';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openFileLogAt } from '../../lib/log/file/file-log.ts';
import type { Log, LogProducer } from '../../lib/log/log.ts';
import { readValues, textBatch } from '../support/log-batches.ts';
import { makeTempDir, tempDir } from '../support/temp.ts';

const RETENTION_MS = 7 * 86_400_000;
const HOUR_MS = 3_600_000;
const YEAR_MS = 365 * 24 * HOUR_MS;
/** A few appends fill a segment. */
const SEGMENT_BYTES = 1024;

/** A machine with a clock that can be set, and a power switch. */
class Machine {
  wallMs = Date.UTC(2026, 0, 31);
  uptimeMs = 60_000;
  #boot = 1;

  get clock() {
    return { nowMs: () => this.wallMs, monotonicMs: () => this.uptimeMs };
  }

  get boot() {
    return { id: Buffer.alloc(16, this.#boot), uptimeMs: () => this.uptimeMs };
  }

  run(ms: number): void {
    this.wallMs += ms;
    this.uptimeMs += ms;
  }

  reboot(): void {
    this.#boot++;
    this.uptimeMs = 5_000;
  }
}

/** The one log of a directory, opened anew at will, and what was appended to it. */
class Writer {
  readonly directory: string;
  readonly machine: Machine;
  #log: Log | undefined;
  #producer: LogProducer | undefined;
  #sequence = 0;

  constructor(directory: string, machine: Machine) {
    this.directory = directory;
    this.machine = machine;
  }

  async log(): Promise<Log> {
    if (this.#log !== undefined) return this.#log;
    const { clock, boot } = this.machine;
    this.#log = await openFileLogAt(this.directory, { segmentBytes: SEGMENT_BYTES, clock, boot });
    await this.#log.ensureTopic('t', { partitions: 1, retentionMs: RETENTION_MS });
    return this.#log;
  }

  async close(): Promise<void> {
    await this.#log?.close();
    this.#log = undefined;
    this.#producer = undefined;
    this.#sequence = 0;
  }

  async append(value: string): Promise<bigint> {
    const log = await this.log();
    this.#producer ??= await log.producer();
    const batch = textBatch([value.padEnd(200, '.')], this.#producer, this.#sequence++);
    return (await this.#producer.append('t', 0, batch)).baseOffset;
  }

  async appendMany(count: number): Promise<void> {
    for (let n = 0; n < count; n++) await this.append('reading');
  }

  async earliest(): Promise<bigint> {
    return (await (await this.log()).offsets('t', 0)).earliest;
  }
}

function openWriter(): Writer {
  const writer = new Writer(tempDir(), new Machine());
  onTestFinished(() => writer.close());
  return writer;
}

test('segments go when the machine ran for longer than the retention; who asks for their offsets is told what is left', async () => {
  const writer = openWriter();
  await writer.appendMany(30);
  writer.machine.run(RETENTION_MS + HOUR_MS);
  await writer.appendMany(30);
  const log = await writer.log();
  const { earliest, end } = await log.offsets('t', 0);
  expect(earliest).toBeGreaterThan(20n);
  expect(end).toBe(60n);
  const request = { topic: 't', partition: 0, offset: 0n, maxBytes: 1 << 20, maxWaitMs: 0 };
  await expect(log.fetch(request)).rejects.toMatchObject({
    code: 'not-found',
    message: `t/0: offset 0 is outside of ${earliest} to 60`,
  });
  expect(await readValues(log, 't', 0)).toHaveLength(Number(end - earliest));
});

test('a clock of 1970 that is set right, or a right one that falls to 1970, removes nothing', async () => {
  const writer = openWriter();
  const { machine } = writer;
  for (const wallMs of [0, Date.UTC(2026, 0, 31), 0, Date.UTC(2100, 0, 1)]) {
    machine.wallMs = wallMs;
    await writer.appendMany(10);
    await writer.close();
    machine.wallMs += 20 * YEAR_MS;
    machine.uptimeMs += 120_000; // the next check of the retention is due
    await writer.appendMany(10);
  }
  expect(await writer.earliest()).toBe(0n);
  expect(await readValues(await writer.log(), 't', 0)).toHaveLength(80);
});

test('what was appended before a fall of the clock still goes when its time has passed', async () => {
  const writer = openWriter();
  await writer.appendMany(20);
  writer.machine.wallMs = 0;
  writer.machine.run(RETENTION_MS + HOUR_MS);
  await writer.appendMany(20);
  expect(await writer.earliest()).toBeGreaterThan(15n);
});

test('ages outlive restarts and reboots, and a log without them begins to count', async () => {
  const writer = openWriter();
  const { machine } = writer;
  await writer.appendMany(20);
  for (let shift = 0; shift < 22; shift++) {
    await writer.close();
    machine.reboot();
    await writer.append('in the morning');
    machine.run(8 * HOUR_MS);
    await writer.append('in the evening');
  }
  expect(await writer.earliest()).toBeGreaterThan(15n);
  const before = await writer.earliest();
  await writer.close();
  rmSync(join(writer.directory, 'topics/t/0/ages'));
  machine.run(2 * RETENTION_MS);
  await writer.appendMany(10);
  expect(await writer.earliest()).toBe(before);
  machine.run(RETENTION_MS + HOUR_MS);
  await writer.append('due');
  expect(await writer.earliest()).toBeGreaterThan(before);
});

test('a directory that moves to a machine which has been up for a year loses nothing', async () => {
  const writer = openWriter();
  await writer.appendMany(20);
  await writer.close();
  writer.machine.reboot();
  writer.machine.uptimeMs = YEAR_MS;
  await writer.appendMany(20);
  expect(await writer.earliest()).toBe(0n);
});

type Step =
  | { readonly kind: 'append'; readonly count: number }
  | { readonly kind: 'run'; readonly ms: number }
  | { readonly kind: 'set'; readonly wallMs: number }
  | { readonly kind: 'reopen' | 'reboot' | 'damage' };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('append' as const), count: fc.integer({ min: 1, max: 6 }) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('run' as const), ms: fc.integer({ max: RETENTION_MS, min: 0 }) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('set' as const), wallMs: fc.integer({ min: 0, max: 130 * YEAR_MS }) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('reopen' as const, 'reboot' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('damage' as const) }) },
);

test('no history of clocks, restarts and damage removes a record before its time, or keeps one for twice its time', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
      const directory = makeTempDir('retention');
      const writer = new Writer(directory, new Machine());
      const { machine } = writer;
      /** Running time, as nobody in there can know it, and when each record was appended. */
      let ranMs = 0;
      const appendedAt: number[] = [];
      let canBeYounger = false;
      const run = (ms: number): void => {
        machine.run(ms);
        ranMs += ms;
      };
      const append = async (): Promise<void> => {
        expect(await writer.append(`${appendedAt.length}`)).toBe(BigInt(appendedAt.length));
        appendedAt.push(ranMs);
        const earliest = Number(await writer.earliest());
        for (const atMs of appendedAt.slice(0, earliest)) expect(ranMs - atMs).toBeGreaterThan(RETENTION_MS);
      };
      try {
        for (const one of steps) {
          if (one.kind === 'append') for (let n = 0; n < one.count; n++) await append();
          else if (one.kind === 'run') run(one.ms);
          else if (one.kind === 'set') machine.wallMs = one.wallMs;
          else {
            await writer.close();
            if (one.kind === 'reboot') {
              machine.reboot();
              // It has run since it booted.
              ranMs += machine.uptimeMs;
            }
            if (one.kind === 'damage') {
              canBeYounger = true;
              const path = join(directory, 'topics/t/0/ages');
              if (appendedAt.length > 0) writeFileSync(path, '00000000\n{}\n');
            } else if (one.kind === 'reboot') canBeYounger = true;
          }
        }
        // Two checks with the retention between them end everything that was there.
        const before = appendedAt.length;
        for (let n = 0; n < 3; n++) {
          run(RETENTION_MS + HOUR_MS);
          await append();
        }
        const earliest = Number(await writer.earliest());
        if (canBeYounger) expect(earliest).toBeGreaterThanOrEqual(before - 1);
        else expect(earliest).toBeGreaterThanOrEqual(before);
        expect(readdirSync(join(directory, 'topics/t/0')).filter((name) => name.endsWith('.log')).length).toBeLessThan(
          4,
        );
      } finally {
        await writer.close();
        rmSync(directory, { recursive: true, force: true });
      }
    }),
    { numRuns: 40 },
  );
});
