/**
 * The embedded log on this machine: encoding, decoding, appending and fetching readings of 200 bytes as the agent sends them.
 * `node bench/log.ts [readings]`; prints figures, asserts nothing.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { ReadingEncoder } from '../agent/uplink/reading-record.ts';
import { systemClock } from '../lib/clock.ts';
import { RecordBatchBuilder } from '../lib/log/batch-builder.ts';
import { RecordBatchReader } from '../lib/log/batch-reader.ts';
import { openFileLogAt } from '../lib/log/file/file-log.ts';
import { placeOf } from '../test/agent/uplink/place-of.ts';
import { NO_PRODUCER, sequenceAfter, type ProducerIdentity } from '../lib/log/record-batch.ts';

const readings = Number(process.argv[2] ?? 1_000_000);
const BATCH_BYTES = 512 * 1024;
const SEQ = Buffer.from('seq');
const EVENT = Buffer.from('event');
const ARRIVAL = Buffer.from('arrival');
const AGENT = Buffer.from('agent');

const encoder = new ReadingEncoder();
const builder = new RecordBatchBuilder(BATCH_BYTES + 4096);
const keys = Array.from({ length: 100 }, (_, i) => Buffer.from(`machine-${i}/vibration`));
const values = keys.map((_, i) =>
  Buffer.from(JSON.stringify({ ts: 1.7e12 + i, rms: i / 7, axis: 'x' }).padEnd(200, ' ')),
);

interface Batch {
  readonly bytes: Buffer;
  readonly records: number;
}

/** `identity` is asked when a batch is sealed. */
function* encoded(
  count: number,
  compression: 'none' | 'zstd',
  identity: (records: number) => ProducerIdentity,
): Generator<Batch> {
  const reading = {
    kind: 'reading',
    topic: 't',
    agent: 'edge-7',
    incarnation: 'c0ffee00c0ffee00',
    priority: 0,
    replayed: false,
    arrivalUs: 1_700_000_000_000_000,
  } as const;
  const seal = (): Batch => {
    const { records } = builder;
    return { bytes: builder.seal(identity(records), compression), records };
  };
  for (let i = 0; i < count; i++) {
    const key = keys[i % keys.length] ?? null;
    const value = values[i % values.length] ?? Buffer.alloc(0);
    const seq = BigInt(i);
    encoder.add(
      builder,
      { ...reading, seq, key, value, place: placeOf(key, value), eventUs: i },
      1_700_000_000_000,
      false,
    );
    if (builder.bytes >= BATCH_BYTES) yield seal();
  }
  if (builder.records > 0) yield seal();
}

async function measure(name: string, count: number, work: () => Promise<number> | number): Promise<void> {
  const cpuBefore = process.cpuUsage();
  const startMs = performance.now();
  const bytes = await work();
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  const rate = Math.round(count / seconds).toLocaleString('en');
  const cpuUs = ((user + system) / count).toFixed(2);
  const mibPerSecond = (bytes / 2 ** 20 / seconds).toFixed(0);
  process.stdout.write(
    `${name.padEnd(44)} ${rate.padStart(11)} records/s  ${cpuUs.padStart(6)} us CPU/record  ${mibPerSecond.padStart(6)} MiB/s\n`,
  );
}

function decode(batches: readonly Buffer[]): number {
  const reader = new RecordBatchReader();
  let checksum = 0;
  for (const batch of batches) {
    reader.open(batch, 'bench');
    while (reader.next()) {
      checksum += reader.headerInteger(SEQ) + reader.headerInteger(EVENT) + reader.headerInteger(ARRIVAL);
      checksum += (reader.header(AGENT)?.length ?? 0) + (reader.value()?.length ?? 0) + (reader.key()?.length ?? 0);
    }
  }
  return checksum;
}

const totalBytes = (batches: readonly Buffer[]): number => batches.reduce((sum, { length }) => sum + length, 0);

process.stdout.write(
  `${cpus()[0]?.model ?? 'unknown CPU'} x ${cpus().length}, Node ${process.version}, ${readings.toLocaleString('en')} readings, ` +
    `values of 200 B, 6 headers, batches of ${BATCH_BYTES / 1024} KiB, files in ${tmpdir()}\n`,
);
decode([...encoded(50_000, 'none', () => NO_PRODUCER)].map(({ bytes }) => bytes)); // Warm-up.

for (const compression of ['none', 'zstd'] as const) {
  const batches: Buffer[] = [];
  await measure(`encode, ${compression}`, readings, () => {
    for (const { bytes } of encoded(readings, compression, () => NO_PRODUCER)) batches.push(bytes);
    return totalBytes(batches);
  });
  await measure(`decode with 4 headers, key, value, ${compression}`, readings, () => {
    decode(batches);
    return totalBytes(batches);
  });
}

const directory = mkdtempSync(join(tmpdir(), 'penstock-bench-log-'));
try {
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 64 * 2 ** 20, clock: systemClock });
  await log.ensureTopic('t', { partitions: 1, retentionMs: 3_600_000 });
  const producer = await log.producer();
  await measure('encode + append, 5 in flight, fdatasync', readings, async () => {
    let bytes = 0;
    let sequence = 0;
    const inFlight = new Set<Promise<unknown>>();
    const identity = (records: number): ProducerIdentity => {
      const baseSequence = sequence;
      sequence = sequenceAfter(sequence, records);
      return { producerId: producer.producerId, producerEpoch: producer.producerEpoch, baseSequence };
    };
    for (const batch of encoded(readings, 'none', identity)) {
      bytes += batch.bytes.length;
      const append = producer.append('t', 0, batch.bytes).finally(() => inFlight.delete(append));
      inFlight.add(append);
      if (inFlight.size === 5) await Promise.race(inFlight);
    }
    await Promise.all(inFlight);
    return bytes;
  });
  await measure('fetch + decode', readings, async () => {
    let bytes = 0;
    for (let offset = 0n; offset < BigInt(readings);) {
      const result = await log.fetch({ topic: 't', partition: 0, offset, maxBytes: 1 << 20, maxWaitMs: 0 });
      decode(result.batches);
      bytes += totalBytes(result.batches);
      offset = result.nextOffset;
    }
    return bytes;
  });
  await measure('append of one record, one after another', 1000, async () => {
    await log.ensureTopic('single', { partitions: 1, retentionMs: 3_600_000 });
    const single = await log.producer();
    for (let i = 0; i < 1000; i++) {
      const [batch] = encoded(1, 'none', () => ({ ...single, baseSequence: i }));
      if (batch !== undefined) await single.append('single', 0, batch.bytes);
    }
    return 0;
  });
  await log.close();
} finally {
  rmSync(directory, { recursive: true, force: true });
}
