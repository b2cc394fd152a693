/** Readings of about 200 bytes for the benchmarks, the same on every run. */
import { HeaderBlock, RecordBatchBuilder } from '../lib/log/batch-builder.ts';
import type { Log } from '../lib/log/log.ts';

const START_MS = Date.UTC(2026, 0, 31, 7);
const MS_PER_HOUR = 3_600_000;

export interface ReadingsOptions {
  readonly rows: number;
  readonly partitions: number;
  readonly compression: 'none' | 'zstd';
  /** The event times cover as many hours, one after the other. */
  readonly hours: number;
  /** Neighbours are of different hours instead: each commit of the lander gets files of all of them. */
  readonly interleaved?: boolean;
  /** The share of readings that are sent a second time; default none. */
  readonly repeats?: number;
}

/** Fills a topic; answers the bytes of the values. */
export async function fillLog(log: Log, topic: string, options: ReadingsOptions): Promise<number> {
  const { rows, partitions, compression } = options;
  await log.ensureTopic(topic, { partitions, retentionMs: 7 * 24 * MS_PER_HOUR });
  const producer = await log.producer();
  const sequences = new Array<number>(partitions).fill(0);
  const builder = new RecordBatchBuilder(900_000);
  const headers = new HeaderBlock(512);
  headers.addAscii('agent', 'edge-7');
  headers.addAscii('incarnation', '9b2f6c1e8d7a4f03');
  const constant = headers.mark();
  let partition = 0;
  let inBatch = 0;
  let valueBytes = 0;
  const flush = async (): Promise<void> => {
    if (inBatch === 0) return;
    const baseSequence = sequences[partition] ?? 0;
    const identity = { producerId: producer.producerId, producerEpoch: producer.producerEpoch, baseSequence };
    await producer.append(topic, partition, builder.seal(identity, compression));
    sequences[partition] = baseSequence + inBatch;
    partition = (partition + 1) % partitions;
    inBatch = 0;
  };
  for (let n = 0; n < rows; n++) {
    const hours = (n / rows) * options.hours;
    const hour = options.interleaved === true ? (n % options.hours) + hours / options.hours : hours;
    const eventMs = START_MS + Math.floor(hour * MS_PER_HOUR);
    const value = Buffer.from(readingText(n, eventMs));
    valueBytes += value.length;
    headers.truncate(constant);
    headers.addAscii('seq', String(n));
    headers.addAscii('event', `${eventMs}000`);
    headers.addAscii('arrival', `${eventMs}250`);
    const key = Buffer.from(`line-${n % 40}/s-${n % 500}`);
    const copies = (n * 0.618_034) % 1 < (options.repeats ?? 0) ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      if (!builder.add(eventMs, key, value, headers)) {
        await flush();
        builder.add(eventMs, key, value, headers);
      }
      inBatch++;
    }
  }
  await flush();
  return valueBytes;
}

function readingText(n: number, eventMs: number): string {
  const wave = Math.sin(n * 0.731) * 10;
  return (
    `{"sensor":"line-${n % 40}/s-${n % 500}","ts":${eventMs},"rms":${(wave * wave).toFixed(6)},"peak":${(wave * 3.1).toFixed(4)},` +
    `"temperature":${(20 + (n % 700) / 13).toFixed(3)},"speed":${1450 + (n % 37)},"running":${n % 11 !== 0},` +
    `"status":"${n % 97 === 0 ? 'warning' : 'ok'}","firmware":"4.12.${n % 3}-build.2207","site":"plant-north-2"}`
  );
}
