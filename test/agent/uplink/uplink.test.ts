import { crc32c } from '@node-rs/crc32';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { UplinkOptions } from '../../../agent/uplink/uplink.ts';
import { PenstockError } from '../../../lib/errors.ts';
import type { Log } from '../../../lib/log/log.ts';
import { FaultPlan, type FaultMoment } from '../../support/fault.ts';
import { faultyLog } from '../../support/log-faulty.ts';
import { tempDir } from '../../support/temp.ts';
import { delivered, flaws } from './delivered.ts';
import { GeneratedSpool, IDENTITY, SENSORS } from './generated-spool.ts';
import { closing, openLog, startUplink } from './start-uplink.ts';
import { HANG_MS } from '../../support/hang.ts';

/** `partitions`: those of the appends that have ended, whether by an answer or an error. */
function watchAppends(log: Log): { readonly log: Log; readonly partitions: Set<number> } {
  const partitions = new Set<number>();
  const producer = async (): ReturnType<Log['producer']> => {
    const inner = await log.producer();
    return {
      ...inner,
      append: (topic, partition, batch) =>
        inner.append(topic, partition, batch).finally(() => partitions.add(partition)),
    };
  };
  return { log: { ...log, producer }, partitions };
}

test('every reading arrives once, in order per sensor, with its identity, and the spool is acknowledged to the end', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 5000);
  const uplink = closing(await startUplink(log, spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  spool.grow(300);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  const found = await delivered(log, 't');
  expect(flaws(found, 5300)).toBe('');
  expect(found.find(({ seq }) => seq === 4711)).toMatchObject({
    key: `sensor-${4711 % SENSORS}`,
    headers: { ...IDENTITY, seq: '4711', event: '1700000000004711', arrival: '1700000000005211', replayed: '0' },
  });
  expect(new Set(found.map(({ partition }) => partition)).size).toBeGreaterThan(1);
  expect(uplink.status()).toMatchObject({ delivered: 5300, lag: 0n, inFlight: 0, lastError: null, quarantined: 0 });
  expect(spool.durablyAcknowledged('t')).toBe(5300n);
});

test.each(['before', 'after'] as const)(
  'an append that fails %s its effect is repeated and stored once',
  async (moment: FaultMoment) => {
    for (let call = 0; call < 12; call++) {
      const directory = tempDir();
      const log = await openLog(directory);
      const plan = new FaultPlan(
        { operation: 'append', call, moment },
        { operation: 'append', call: call + 1, moment },
      );
      const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 400);
      const uplink = closing(await startUplink(faultyLog(log, plan), spool, directory));
      for (let round = 0; round < 10; round++) {
        spool.grow(40);
        expect(await uplink.drain(HANG_MS)).toBe(true);
      }
      expect(flaws(await delivered(log, 't'), 800), `call ${call}`).toBe('');
      expect(plan.fired).toBe(2);
      await uplink.close();
    }
  },
);

test('calls that fail at the start are repeated until the log answers', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const plan = new FaultPlan(
    { operation: 'ensureTopic', call: 0, moment: 'before' },
    { operation: 'ensureTopic', call: 1, moment: 'after' },
    { operation: 'producer', call: 0, moment: 'after' },
    { operation: 'offsets', call: 1, moment: 'before' },
  );
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
  const uplink = closing(await startUplink(faultyLog(log, plan), spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(flaws(await delivered(log, 't'), 100)).toBe('');
  expect(plan.fired).toBe(4);
});

test('a log that has forgotten the producer gets what is missing under a new one, nothing twice', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const forgotten = (): Error => new PenstockError('unknown-producer', 'expired');
  // The third batch is stored and its answer lost; then the log claims not to know the producer.
  const plan = new FaultPlan(
    { operation: 'append', call: 3, moment: 'after', error: forgotten },
    { operation: 'append', call: 5, moment: 'before', error: forgotten },
  );
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
  const uplink = closing(await startUplink(faultyLog(log, plan), spool, directory));
  for (let round = 0; round < 6; round++) {
    expect(await uplink.drain(HANG_MS)).toBe(true);
    spool.grow(100);
  }
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(flaws(await delivered(log, 't'), 700)).toBe('');
  expect(plan.fired).toBe(2);
});

test.each(['before', 'after'] as const)(
  'batches in doubt (failed %s their effect) are settled by the next start, under the old identity',
  async (moment: FaultMoment) => {
    const directory = tempDir();
    const log = await openLog(directory);
    const faults = Array.from({ length: 50 }, (_, call) => ({ operation: 'append', call: call + 3, moment }));
    const plan = new FaultPlan(...faults);
    const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
    const { log: watched, partitions } = watchAppends(faultyLog(log, plan));
    const first = await startUplink(watched, spool, directory);
    expect(await first.drain(HANG_MS)).toBe(true);
    partitions.clear();
    spool.grow(100);
    await expect.poll(() => partitions.size).toBe(3);
    expect(await first.drain(50)).toBe(false);
    await first.close();
    const before = await delivered(log, 't');
    expect(before).toHaveLength(moment === 'after' ? 200 : 100);
    const producers = new Set(before.map(({ producerId }) => producerId));

    const again = new GeneratedSpool('t', join(directory, 'acknowledged'), 250);
    const second = closing(await startUplink(log, again, directory));
    expect(await second.drain(HANG_MS)).toBe(true);
    const found = await delivered(log, 't');
    expect(flaws(found, 250)).toBe('');
    expect(found.filter(({ seq }) => seq <= 200).every(({ producerId }) => producers.has(producerId))).toBe(true);
    expect(found.filter(({ seq }) => seq > 200).some(({ producerId }) => producers.has(producerId))).toBe(false);
  },
);

test('a reading that no batch can hold, and one that the log refuses, are set aside with the reason; the others arrive', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const special = new Map([
    [7n, { value: Buffer.alloc(2_000_000, 'x') }],
    [12n, { value: Buffer.alloc(5000, 'y') }],
  ]);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 60, special);
  const picky: Log = {
    ...faultyLog(log, new FaultPlan()),
    producer: async () => {
      const producer = await log.producer();
      return {
        ...producer,
        append: async (topic, partition, batch) => {
          if (batch.length > 4000) throw new PenstockError('too-large', 'this broker takes 4000 bytes');
          return producer.append(topic, partition, batch);
        },
      };
    },
  };
  const uplink = closing(await startUplink(picky, spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(flaws(await delivered(log, 't'), 60, [7, 12])).toBe('');
  expect(uplink.status()).toMatchObject({ quarantined: 2, lag: 0n });
  const lines = readFileSync(join(directory, 'quarantine.ndjson'), 'utf8').trim().split('\n');
  const kept = lines.map((line) => JSON.parse(line) as { seq: string; reason: string; value: string });
  expect(kept.map(({ seq, reason }) => [seq, reason])).toEqual([
    ['7', expect.stringContaining('2000008 bytes do not fit')],
    ['12', 'this broker takes 4000 bytes'],
  ]);
  expect(Buffer.from(kept[1]?.value ?? '', 'base64')).toEqual(Buffer.alloc(5000, 'y'));
  // Two holes in the sequence, each told of in the log.
  expect(spool.gaps.map(({ fromSeq, toSeq, reason }) => [fromSeq, toSeq, reason])).toEqual([
    [7n, 7n, expect.stringContaining('quarantined: 2000008 bytes do not fit')],
    [12n, 12n, 'quarantined: this broker takes 4000 bytes'],
  ]);
});

test('with a flipped bit anywhere in the intents every reading arrives, none under another identity, and damage is set aside', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const hangs = Array.from({ length: 200 }, (_, call) => ({
    operation: 'append',
    call: call + 3,
    moment: 'after' as const,
  }));
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
  const first = await startUplink(faultyLog(log, new FaultPlan(...hangs)), spool, directory);
  expect(await first.drain(HANG_MS)).toBe(true);
  spool.grow(50);
  await expect.poll(async () => (await delivered(log, 't')).length).toBe(150);
  expect(await first.drain(50)).toBe(false);
  await first.close();
  const intents = readFileSync(join(directory, 'intents'));
  const acknowledged = readFileSync(join(directory, 'acknowledged'));
  expect(intents.toString().trim().split('\n').length).toBeGreaterThan(2);

  let setAside = 0;
  // A stride that meets every bit position of a byte and every field.
  for (let bit = 0; bit < intents.length * 8; bit += 199) {
    const damaged = Buffer.from(intents);
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    writeFileSync(join(directory, 'intents'), damaged);
    writeFileSync(join(directory, 'acknowledged'), acknowledged);
    const again = new GeneratedSpool('t', join(directory, 'acknowledged'), 150);
    const uplink = await startUplink(log, again, directory);
    expect(await uplink.drain(HANG_MS), `bit ${bit}`).toBe(true);
    for (const path of uplink.status().setAside) {
      setAside += 1;
      expect(readFileSync(path)).toEqual(damaged);
    }
    await uplink.close();
    const seqs = new Set((await delivered(log, 't')).map(({ seq }) => seq));
    expect([...seqs].sort((a, b) => a - b)).toEqual(Array.from({ length: 150 }, (_, i) => i + 1));
  }
  expect(setAside).toBeGreaterThan(0);
});

test('a drain that waits while what an earlier run sent is found stored ends with it', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  // Stored, and never answered.
  const plan = new FaultPlan(
    ...Array.from({ length: 50 }, (_, call) => ({ operation: 'append', call, moment: 'after' as const })),
  );
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
  const first = await startUplink(faultyLog(log, plan), spool, directory);
  await expect.poll(async () => (await delivered(log, 't')).length).toBe(100);
  await first.close();

  const asked = Promise.withResolvers<unknown>();
  const ensureTopic: Log['ensureTopic'] = async (...request) => {
    await asked.promise;
    return log.ensureTopic(...request);
  };
  const again = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
  const uplink = closing(await startUplink({ ...faultyLog(log, new FaultPlan()), ensureTopic }, again, directory));
  const drained = uplink.drain(HANG_MS);
  asked.resolve(undefined);
  expect(await drained).toBe(true);
  expect(flaws(await delivered(log, 't'), 100)).toBe('');
});

test('a gap of the spool is passed over and acknowledged', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const gap = { kind: 'gap', topic: 't', fromSeq: 10n, toSeq: 19n, reason: 'dropped' } as const;
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 30, new Map([[10n, gap]]));
  const uplink = closing(await startUplink(log, spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(flaws(await delivered(log, 't'), 30, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19])).toBe('');
});

test('a topic that is deleted meanwhile is made again and served', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 50);
  const uplink = closing(await startUplink(log, spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  await log.deleteTopic('t');
  spool.grow(50);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  const found = await delivered(log, 't');
  expect(found.map(({ seq }) => seq).sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i + 51));
});

test('a topic that comes back with other partitions gets the readings of those that had sent nothing, too', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const path = join(directory, 'intents');
  const spool = (): GeneratedSpool => new GeneratedSpool('t', join(directory, 'acknowledged'), 400);
  const topics = (partitions: number): UplinkOptions['topics'] => ({ partitions, retentionMs: 3_600_000 });
  /** A run that is killed when its first batch was (or was to be) stored, with its intents up to a line on the disk. */
  const killed = async (partitions: number, moment: FaultMoment, isLast: (line: string) => boolean): Promise<void> => {
    let intents: string | undefined;
    const dying: Log = {
      ...faultyLog(log, new FaultPlan()),
      producer: async () => {
        const producer = await log.producer();
        return {
          ...producer,
          append: async (...batch) => {
            const isFirst = intents === undefined;
            intents ??= readFileSync(path, 'utf8');
            if (moment === 'after' && isFirst) await producer.append(...batch);
            throw new PenstockError('unavailable', 'killed');
          },
        };
      },
    };
    // Small batches: one is full while the other partitions still fill theirs.
    const budget = { bytesPerSecond: 8000, bytesPerDay: 0 };
    const uplink = await startUplink(dying, spool(), directory, { topics: topics(partitions), budget });
    await expect.poll(() => intents).toBeDefined();
    await uplink.close();
    const lines = intents?.split('\n').slice(0, -1) ?? [];
    const written = lines.slice(0, lines.findIndex(isLast) + 1);
    writeFileSync(path, written.map((line) => `${line}\n`).join(''));
  };
  await killed(3, 'before', (line) => line.includes('"intent"'));
  await log.deleteTopic('t');
  await killed(1, 'after', (line) => line.includes('"records"') && !line.includes('"partitions":3'));
  const last = closing(await startUplink(log, spool(), directory, { topics: topics(1) }));
  expect(await last.drain(HANG_MS)).toBe(true);
  expect(flaws(await delivered(log, 't'), 400)).toBe('');
});

test('memory is bounded while the log does not answer, and everything arrives afterwards', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  let isDown = true;
  const flaky: Log = {
    ...faultyLog(log, new FaultPlan()),
    producer: async () => {
      const producer = await log.producer();
      return {
        ...producer,
        append: async (topic, partition, batch) => {
          if (isDown) throw new PenstockError('unavailable', 'down');
          return producer.append(topic, partition, batch);
        },
      };
    },
  };
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100_000);
  const reads: bigint[] = [];
  const read = spool.read.bind(spool);
  spool.read = (topic, afterSeq, maxBytes) => {
    reads.push(afterSeq);
    return read(topic, afterSeq, Math.min(maxBytes, 20_000));
  };
  const uplink = closing(await startUplink(flaky, spool, directory, { bytesInMemoryMax: 100_000 }));
  await expect.poll(() => uplink.status().lastError?.message).toBe('down');
  expect(await uplink.drain(300)).toBe(false);
  expect(uplink.status().lastError?.message).toBe('down');
  expect(Number(reads.at(-1))).toBeLessThan(3000);
  isDown = false;
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(flaws(await delivered(log, 't'), 100_000)).toBe('');
});

test('readings of a renewed incarnation are sent although their sequence numbers were used before', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  // The first spool acknowledges lazily, then loses its tail behind 20: 21 to 60 are given out again, to other readings.
  const first = await startUplink(
    log,
    new GeneratedSpool('t', join(directory, 'one'), 50, new Map(), 1000n),
    directory,
  );
  expect(await first.drain(HANG_MS)).toBe(true);
  await first.close();
  const renewed = new Map(Array.from({ length: 40 }, (_, i) => [BigInt(21 + i), { incarnation: 'inc-2' }]));
  const second = closing(
    await startUplink(log, new GeneratedSpool('t', join(directory, 'two'), 60, renewed), directory),
  );
  expect(await second.drain(HANG_MS)).toBe(true);
  const found = await delivered(log, 't');
  const of = (name: string): typeof found => found.filter(({ headers }) => headers['incarnation'] === name);
  expect(flaws(of('inc-1'), 50)).toBe('');
  expect(
    flaws(
      of('inc-2'),
      60,
      Array.from({ length: 20 }, (_, i) => i + 1),
    ),
  ).toBe('');
});

test('a torn last intent is cut, a damaged one in the middle is set aside with the file', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 50);
  const first = await startUplink(log, spool, directory);
  expect(await first.drain(HANG_MS)).toBe(true);
  await first.close();
  const path = join(directory, 'intents');
  const whole = readFileSync(path, 'utf8');
  writeFileSync(path, `${whole}0123abcd {"intent":{"id":99`);
  const second = await startUplink(log, spool, directory);
  expect(second.status().setAside).toEqual([]);
  await second.close();
  writeFileSync(path, `00000000 {"done":1}\n${whole}`);
  const third = closing(await startUplink(log, spool, directory));
  expect(third.status().setAside).toEqual([`${path}.corrupt-1`]);
  expect(await third.drain(HANG_MS)).toBe(true);
});

test('after a way back from a newer version, whose lines say more, the intent file is whole', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 50);
  const first = await startUplink(log, spool, directory);
  expect(await first.drain(HANG_MS)).toBe(true);
  await first.close();
  const path = join(directory, 'intents');
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  expect(lines.join()).toContain('{"intent":{');
  const newer = lines.map((line) => {
    const json = line.slice(9).replace('{"intent":{', '{"later":1,"intent":{"later":1,');
    return `${crc32c(json).toString(16).padStart(8, '0')} ${json}\n`;
  });
  writeFileSync(path, newer.join(''));
  const second = closing(await startUplink(log, spool, directory));
  expect(second.status().setAside).toEqual([]);
});
