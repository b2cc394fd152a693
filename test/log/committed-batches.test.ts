/** Which batches READ_COMMITTED leaves out, against a log whose transactions are known. */
import { crc32c } from '@node-rs/crc32';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import { withoutAborted } from '../../lib/log/kafka/committed-batches.ts';
import { CRC_START, readBatchHeader } from '../../lib/log/record-batch.ts';
import { encodeBatch } from '../support/log-batches.ts';

const TRANSACTIONAL = 16;
const CONTROL = 32;
const ABORT = 0;
const COMMIT = 1;

interface Transaction {
  readonly producerId: bigint;
  readonly firstOffset: bigint;
  /** Of its marker; undefined: it is open. */
  lastOffset?: bigint;
  isAborted: boolean;
}

/** A partition as its broker keeps it. */
class Partition {
  readonly batches: {
    readonly bytes: Buffer;
    readonly value: string;
    readonly transaction: Transaction | undefined;
  }[] = [];
  readonly transactions: Transaction[] = [];
  end = 0n;

  write(producerId: bigint, isTransactional: boolean): void {
    const value = `v${this.end}`;
    let transaction: Transaction | undefined;
    if (isTransactional) {
      transaction = this.#open(producerId);
      if (transaction === undefined) {
        transaction = { producerId, firstOffset: this.end, isAborted: false };
        this.transactions.push(transaction);
      }
    }
    const values = [value, value].map((text) => ({ timestampMs: 1, key: null, value: Buffer.from(text), headers: [] }));
    this.#store(values, producerId, isTransactional ? TRANSACTIONAL : 0, value, transaction);
  }

  finish(producerId: bigint, isAborted: boolean): void {
    const transaction = this.#open(producerId);
    if (transaction === undefined) return;
    transaction.lastOffset = this.end;
    transaction.isAborted = isAborted;
    const key = Buffer.from([0, 0, 0, isAborted ? ABORT : COMMIT]);
    const marker = [{ timestampMs: 1, key, value: Buffer.alloc(6), headers: [] }];
    this.#store(marker, producerId, TRANSACTIONAL | CONTROL, '', undefined);
  }

  #open(producerId: bigint): Transaction | undefined {
    return this.transactions.find((one) => one.producerId === producerId && one.lastOffset === undefined);
  }

  #store(
    records: Parameters<typeof encodeBatch>[0],
    producerId: bigint,
    attributes: number,
    value: string,
    transaction: Transaction | undefined,
  ): void {
    const bytes = encodeBatch(records, { producerId, producerEpoch: 0, baseSequence: 0 });
    bytes.writeBigInt64BE(this.end, 0);
    bytes.writeInt16BE(attributes, CRC_START);
    bytes.writeUInt32BE(crc32c(bytes.subarray(CRC_START)), 17);
    this.batches.push({ bytes, value, transaction });
    this.end += BigInt(records.length);
  }
}

const endOf = (bytes: Buffer): bigint => {
  const { baseOffset, lastOffsetDelta } = readBatchHeader(bytes, 0, 't/0');
  return baseOffset + BigInt(lastOffsetDelta) + 1n;
};
const valuesOf = (batches: readonly Buffer[]): (string | undefined)[] =>
  batches.flatMap((bytes) => decodeRecords(bytes, 't/0').map(({ value }) => value?.toString()));

test('whatever producers do at once, and wherever a fetch begins and ends, exactly the batches of aborted transactions are empty', () => {
  const step = fc.record({
    producerId: fc.bigInt(-1n, 3n),
    does: fc.constantFrom('plain' as const, 'write' as const, 'write' as const, 'commit' as const, 'abort' as const),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.nat(40), fc.nat(40), (steps, from, count) => {
      const log = new Partition();
      for (const { producerId, does } of steps) {
        if (does === 'plain' || producerId < 0n) log.write(producerId, false);
        else if (does === 'write') log.write(producerId, true);
        else log.finish(producerId, does === 'abort');
      }
      const lastStable = log.transactions.find(({ lastOffset }) => lastOffset === undefined)?.firstOffset ?? log.end;
      const fetched = log.batches.slice(from, from + count).filter(({ bytes }) => endOf(bytes) <= lastStable);
      const [first, last] = [fetched[0]?.bytes, fetched.at(-1)?.bytes];
      if (first === undefined || last === undefined) return;
      // What a broker names: all that overlap the answer, here in the order of their markers.
      const { baseOffset } = readBatchHeader(first, 0, 't/0');
      const aborted = log.transactions
        .filter((one) => one.isAborted && (one.lastOffset ?? 0n) >= baseOffset && one.firstOffset < endOf(last))
        .sort((a, b) => Number((a.lastOffset ?? 0n) - (b.lastOffset ?? 0n)));
      const read = withoutAborted(
        fetched.map(({ bytes }) => bytes),
        aborted,
        't/0',
      );
      expect(read.map(endOf)).toEqual(fetched.map(({ bytes }) => endOf(bytes)));
      const kept = fetched.filter(({ value, transaction }) => value !== '' && transaction?.isAborted !== true);
      expect(valuesOf(read)).toEqual(kept.flatMap(({ value }) => [value, value]));
    }),
    { numRuns: 500 },
  );
});

test('a damaged batch is not taken for an aborted one: who decodes it reports it', () => {
  const log = new Partition();
  log.write(1n, true);
  log.finish(1n, true);
  const [batch = Buffer.alloc(0), marker = Buffer.alloc(0)] = log.batches.map(({ bytes }) => bytes);
  batch[batch.length - 1] = 1 ^ (batch.at(-1) ?? 0);
  const read = withoutAborted([batch, marker], [{ producerId: 1n, firstOffset: 0n }], 't/0');
  expect(read).toEqual([batch, marker]);
  expect(() => valuesOf(read)).toThrow(expect.objectContaining({ code: 'corrupt' }) as Error);
});
