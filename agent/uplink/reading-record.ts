/**
 * A reading as a Kafka record: key = sensor id, value = its bytes, ASCII headers `agent`, `incarnation`, `seq`, `event` and
 * `arrival` (epoch us), `replayed` (`1` or `0`), and of one that is traced `traceparent` (agent/traces.ts). The identity of a reading is (agent, incarnation, topic, seq); an incarnation is a
 * random id, so it alone tells whose a sequence number is.
 */
import { HeaderBlock, type HeaderMark, type RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import { TRACEPARENT } from '../../lib/tracing/trace-context.ts';
import type { SpooledReading } from '../spool/spool-reader.ts';

/** Four numbers of at most 20 digits with their names and lengths, and a `traceparent`, behind the two constant headers. */
const VARIABLE_HEADER_BYTES = 240;

const INCARNATION = Buffer.from('incarnation');
const SEQ = Buffer.from('seq');

export class ReadingEncoder {
  /** The headers that stay the same from one reading to the next, and room for the others behind them. */
  #constant:
    | { readonly agent: string; readonly incarnation: string; readonly block: HeaderBlock; readonly mark: HeaderMark }
    | undefined;
  readonly #traceparent: ((topic: string, seq: bigint) => string | undefined) | undefined;

  /** `traceparent`: of a reading, where it is traced. */
  constructor(traceparent?: (topic: string, seq: bigint) => string | undefined) {
    this.#traceparent = traceparent;
  }

  /** False when the batch is full. */
  add(builder: RecordBatchBuilder, reading: SpooledReading, timestampMs: number, replayed: boolean): boolean {
    const headers = this.#headersOf(reading);
    headers.addWholeNumber('seq', Number(reading.seq));
    headers.addWholeNumber('event', reading.eventUs);
    headers.addWholeNumber('arrival', reading.arrivalUs);
    headers.addAscii('replayed', replayed ? '1' : '0');
    const traceparent = this.#traceparent?.(reading.topic, reading.seq);
    if (traceparent !== undefined) headers.addAscii(TRACEPARENT, traceparent);
    return builder.addPlaced(timestampMs, reading.place, headers);
  }

  #headersOf({ agent, incarnation }: SpooledReading): HeaderBlock {
    if (this.#constant?.incarnation !== incarnation || this.#constant.agent !== agent) {
      const block = new HeaderBlock(
        Buffer.byteLength(agent) + Buffer.byteLength(incarnation) + 64 + VARIABLE_HEADER_BYTES,
      );
      block.add('agent', Buffer.from(agent));
      block.add('incarnation', Buffer.from(incarnation));
      this.#constant = { agent, incarnation, block, mark: block.mark() };
    }
    this.#constant.block.truncate(this.#constant.mark);
    return this.#constant.block;
  }
}

/** The sequence number of the first reading of a stored batch when it is of that incarnation, else null. */
export function firstSeqOf(batch: Uint8Array, where: string, incarnation: string): bigint | null {
  const reader = new RecordBatchReader();
  reader.open(batch, where);
  if (!reader.next()) return null;
  if (reader.header(INCARNATION)?.toString() !== incarnation) return null;
  const seq = reader.headerText(SEQ);
  return seq === null || !/^\d{1,19}$/.test(seq) ? null : BigInt(seq);
}

export interface RecordCopy {
  readonly seq: bigint;
  readonly bytes: number;
  /** Adds the record to another batch; false when that one is full. */
  readonly addTo: (builder: RecordBatchBuilder) => boolean;
  readonly describe: () => { readonly key: string | null; readonly value: string };
}

/** The records of a batch of ours, to be put into others; with their own time, or the one given. */
export function recordsOf(batch: Uint8Array, where: string, givenMs?: number): RecordCopy[] {
  const reader = new RecordBatchReader();
  reader.open(batch, where);
  const copies: RecordCopy[] = [];
  while (reader.next()) {
    const timestampMs = givenMs ?? reader.timestampMs;
    const key = reader.key();
    const value = reader.value();
    const headers = reader.headers();
    copies.push({
      seq: BigInt(reader.headerText(SEQ) ?? 0),
      bytes: (key?.length ?? 0) + (value?.length ?? 0),
      addTo: (builder) => {
        const block = new HeaderBlock(
          headers.reduce((sum, [name, bytes]) => sum + name.length + (bytes?.length ?? 0) + 10, 0),
        );
        for (const [name, bytes] of headers) block.add(name, bytes);
        return builder.add(timestampMs, key, value, block);
      },
      describe: () => ({ key: key?.toString() ?? null, value: value?.toString('base64') ?? '' }),
    });
  }
  return copies;
}
