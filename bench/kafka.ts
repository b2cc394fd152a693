/**
 * Producing into a real Kafka broker: records per second and CPU of this process per record, in one run on one partition, through
 *
 *   penstock, kafkajs         our batches over kafkajs's connections (the default)
 *   penstock, platformatic    the same over those of @platformatic/kafka
 *   kafkajs producer.send     what kafkajs does by itself: idempotent, 1,000 records a call, five calls at a time
 *
 *   node bench/kafka.ts [--records 200000] [--bytes 200] [--rounds 3]
 *
 * and, for the first two, fetching the same records again as batches. The broker is started for it (node bin/install.mjs --services installs it). Idle: CPU of an open producer.
 */
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { setTimeout as delay } from 'node:timers/promises';
import { Kafka, logLevel } from 'kafkajs';
import { RecordBatchBuilder } from '../lib/log/batch-builder.ts';
import { IN_FLIGHT_MAX } from '../lib/log/log.ts';
import { sequenceAfter } from '../lib/log/record-batch.ts';
import { openLog } from '../lib/registry.ts';
import { KafkaBroker } from '../test/support/kafka.ts';

const { values } = parseArgs({
  options: {
    records: { type: 'string', default: '200000' },
    bytes: { type: 'string', default: '200' },
    rounds: { type: 'string', default: '3' },
  },
});
const [records, bytes, rounds] = [Number(values.records), Number(values.bytes), Number(values.rounds)];
const IDLE_MS = 1500;
const BATCH_BYTES = 500_000;
const SEND_RECORDS = 1000;
const FETCH_BYTES = 2 << 20;
const readings = Array.from({ length: 5000 }, (_, i) =>
  Buffer.from(JSON.stringify({ sensor: `s-${i % 97}`, ts: 1.7e12 + i * 37, rms: ((i * 31) % 997) / 7 }).padEnd(bytes)),
);
const broker = await KafkaBroker.start();

interface Contender {
  readonly name: string;
  /** Sends `count` records to a topic of its own. */
  readonly send: (topic: string, count: number) => Promise<void>;
  /** Fetches them again, without decoding. */
  readonly read?: (topic: string) => Promise<void>;
  readonly close: () => Promise<void>;
}

async function penstock(client: string, compression: 'none' | 'zstd'): Promise<Contender> {
  const log = await openLog(`kafka://${broker.plain}?client=${client}`);
  const send = async (topic: string, count: number): Promise<void> => {
    await log.ensureTopic(topic, { partitions: 1, retentionMs: 3_600_000 });
    const producer = await log.producer();
    const builder = new RecordBatchBuilder(BATCH_BYTES);
    const inFlight = new Set<Promise<unknown>>();
    let baseSequence = 0;
    for (let sent = 0; sent < count;) {
      while (sent < count && builder.add(Date.now(), null, readings[sent % readings.length] ?? null)) sent++;
      const added = builder.records;
      const batch = builder.seal({ ...producer, baseSequence }, compression);
      baseSequence = sequenceAfter(baseSequence, added);
      const append = producer.append(topic, 0, batch).finally(() => inFlight.delete(append));
      inFlight.add(append);
      if (inFlight.size === IN_FLIGHT_MAX) await Promise.race(inFlight);
    }
    await Promise.all(inFlight);
  };
  const read = async (topic: string): Promise<void> => {
    const { end } = await log.offsets(topic, 0);
    for (let offset = 0n; offset < end;) {
      offset = (await log.fetch({ topic, partition: 0, offset, maxBytes: FETCH_BYTES, maxWaitMs: 0 })).nextOffset;
    }
  };
  const isPlain = compression === 'none';
  return { name: `penstock, ${client}, ${compression}`, send, ...(isPlain && { read }), close: () => log.close() };
}

async function kafkajsProducer(): Promise<Contender> {
  const kafka = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING });
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: IN_FLIGHT_MAX });
  const admin = kafka.admin();
  await Promise.all([producer.connect(), admin.connect()]);
  const send = async (topic: string, count: number): Promise<void> => {
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }], waitForLeaders: true });
    let sent = 0;
    const lane = async (): Promise<void> => {
      while (sent < count) {
        const messages: { value: Buffer; partition: number }[] = [];
        while (messages.length < SEND_RECORDS && sent < count) {
          messages.push({ value: readings[sent++ % readings.length] ?? Buffer.alloc(0), partition: 0 });
        }
        await producer.send({ topic, acks: -1, messages });
      }
    };
    await Promise.all(Array.from({ length: IN_FLIGHT_MAX }, lane));
  };
  const close = async (): Promise<void> => {
    await producer.disconnect();
    await admin.disconnect();
  };
  return { name: 'kafkajs producer.send', send, close };
}

async function measure(name: string, work: () => Promise<void>): Promise<void> {
  const cpuStart = process.cpuUsage();
  const start = performance.now();
  await work();
  const seconds = (performance.now() - start) / 1000;
  const cpu = process.cpuUsage(cpuStart);
  const perSecond = String(Math.round(records / seconds)).padStart(9);
  const perRecordUs = ((cpu.user + cpu.system) / records).toFixed(2).padStart(6);
  process.stdout.write(`${name.padEnd(32)} ${perSecond} records/s ${perRecordUs} us of CPU a record\n`);
}

async function idleShare(): Promise<string> {
  const cpuStart = process.cpuUsage();
  await delay(IDLE_MS);
  const cpu = process.cpuUsage(cpuStart);
  return `${((cpu.user + cpu.system) / IDLE_MS / 10).toFixed(2)} % of a core`;
}

const makers = [
  () => penstock('kafkajs', 'none'),
  () => penstock('kafkajs', 'zstd'),
  () => penstock('platformatic', 'none'),
  () => penstock('platformatic', 'zstd'),
  () => kafkajsProducer(),
];
try {
  process.stdout.write(
    `machine: ${cpus().length} x ${cpus()[0]?.model ?? '?'}, Node ${process.version}, Kafka 4.1.1 beside it\n`,
  );
  process.stdout.write(`parameters: ${records} records of ${bytes} bytes, one partition, acks=all, ${rounds} rounds\n`);
  const contenders: Contender[] = [];
  for (const make of makers) {
    const contender = await make();
    await contender.send(`warm-${contenders.length}`, Math.ceil(records / 10));
    // Those of kafkajs come last: the others are open, too, but cost nothing.
    process.stdout.write(`${contender.name.padEnd(32)} idle: ${await idleShare()}\n`);
    contenders.push(contender);
  }
  for (let round = 0; round < rounds; round++) {
    for (const [index, { name, send, read }] of contenders.entries()) {
      const topic = `bench-${round}-${index}`;
      await measure(name, () => send(topic, records));
      if (read !== undefined) await measure('                       fetch', () => read(topic));
    }
  }
  for (const contender of contenders) await contender.close();
} finally {
  await broker.close();
}
