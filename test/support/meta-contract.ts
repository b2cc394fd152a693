/**
 * What every adapter of the MetaEngine port promises, as tests: each sentence of lib/meta/engine.ts. `freshUrl` gives the URL of an empty
 * engine; every test takes its own.
 */
import { AssertionError } from 'node:assert';
import { describe, expect, test } from 'vitest';
import {
  COMMIT_BYTES_MAX,
  COMMIT_RECORDS_MAX,
  RING_SIZE,
  VALUE_BYTES_MAX,
  type MetaEngine,
  type Minitransaction,
} from '../../lib/meta/engine.ts';
import { describeInstants } from './meta-contract-instants.ts';
import { describeConcurrency, describeFeed, describeSessions } from './meta-contract-live.ts';
import { describeReads } from './meta-contract-reads.ts';
import {
  BUCKET,
  NUMBERS,
  V,
  apply,
  collect,
  key,
  listener,
  openFor,
  put,
  readNumber,
  readOne,
  scanAll,
} from './meta-helpers.ts';
import { until } from './redis.ts';

const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));

export function describeMetaContract(adapter: string, freshUrl: () => Promise<string>): void {
  const open = async (): Promise<MetaEngine> => openFor(await freshUrl());
  describe(`${adapter} as a MetaEngine`, () => {
    describeRecords(open);
    describeCompares(open);
    describeNumbers(open);
    describeLimits(open);
    describeOperations(open, freshUrl);
    describeReads(open);
    describeInstants(freshUrl);
    describeFeed(freshUrl);
    describeSessions(freshUrl);
    describeConcurrency(freshUrl);
  });
}

function describeRecords(open: () => Promise<MetaEngine>): void {
  test('a record is absent, written, replaced and deleted, with another version each time', async () => {
    const engine = await open();
    expect(await readOne(engine, key('a'))).toBeNull();
    const first = await apply(engine, put('a', 'one'));
    expect(await readOne(engine, key('a'))).toEqual({ value: Buffer.from('one'), version: first.version });
    const second = await apply(engine, put('a', 'one'));
    expect(second.version).not.toBe(first.version);
    await apply(engine, put('a', null));
    expect(await readOne(engine, key('a'))).toBeNull();
    await apply(engine, put('a', null)); // deleting what is absent is no error
    expect(await engine.count(BUCKET)).toBe(0);
  });

  test('one version serves all records of a commit', async () => {
    const engine = await open();
    const write = ['a', 'b'].flatMap((field) => put(field).write ?? []);
    const { version } = await apply(engine, {
      write: [...write, { key: key('c', `${V}other`), value: Buffer.from('c') }],
    });
    const records = await engine.read([key('a'), key('c', `${V}other`), key('b'), key('missing')]);
    expect(records.map((record) => record?.version)).toEqual([version, version, version, undefined]);
    expect(records.map((record) => record?.value.toString())).toEqual(['a', 'c', 'b', undefined]);
  });

  test('every byte survives in buckets, fields and values; the empty field and value are legal', async () => {
    const engine = await open();
    const bytes = ALL_BYTES.toString('latin1');
    const bucket = `${V}${bytes}`;
    await apply(engine, {
      write: [
        { key: { bucket, field: bytes }, value: ALL_BYTES },
        { key: { bucket, field: '' }, value: Buffer.alloc(0) },
      ],
    });
    expect((await readOne(engine, { bucket, field: bytes }))?.value).toEqual(ALL_BYTES);
    expect((await readOne(engine, { bucket, field: '' }))?.value).toEqual(Buffer.alloc(0));
    expect(await scanAll(engine, bucket, 1)).toEqual(
      new Map([
        ['', Buffer.alloc(0)],
        [bytes, ALL_BYTES],
      ]),
    );
    expect(await collect(engine.buckets(V))).toEqual([bucket]);
    await apply(engine, { patch: [{ number: { bucket: `${bucket}n`, field: bytes }, add: 7n }] });
    expect(await engine.numbers(`${bucket}n`)).toEqual([[bytes, 7n]]);
  });
}

function describeCompares(open: () => Promise<MetaEngine>): void {
  test('a record is compared by version and by absence', async () => {
    const engine = await open();
    await apply(engine, { compare: [{ key: key('a'), version: null }], ...put('a', 'one') });
    const old = (await readOne(engine, key('a')))?.version ?? null;
    const { version } = await apply(engine, { compare: [{ key: key('a'), version: old }], ...put('a', 'two') });
    const stale = await engine.commit({ compare: [{ key: key('a'), version: old }], ...put('a', 'three') });
    const current = { value: Buffer.from('two'), version };
    expect(stale).toEqual({ ok: false, mismatches: [{ index: 0, kind: 'value', current }] });
    const present = await engine.commit({ compare: [{ key: key('a'), version: null }], ...put('a', 'three') });
    expect(present).toEqual({ ok: false, mismatches: [{ index: 0, kind: 'value', current }] });
    await apply(engine, put('a', null));
    const absent = await engine.commit({ compare: [{ key: key('a'), version }], ...put('a', 'three') });
    expect(absent).toEqual({ ok: false, mismatches: [{ index: 0, kind: 'value', current: null }] });
  });

  test('a deleted and rewritten record is not taken for the old one', async () => {
    const engine = await open();
    const { version } = await apply(engine, put('a', 'same'));
    await apply(engine, put('a', null));
    await apply(engine, put('a', 'same'));
    expect(await engine.commit({ compare: [{ key: key('a'), version }], ...put('a', 'x') })).toMatchObject({
      ok: false,
    });
  });

  test('nothing happens when one compare fails, and every mismatch comes back fresh', async () => {
    const engine = await open();
    const { version } = await apply(engine, put('a'));
    await apply(engine, { patch: [{ number: key('n', NUMBERS), add: 5n }] });
    const heard = listener();
    await engine.subscribe([`${V}s`], heard.handlers);
    const result = await engine.commit({
      compare: [
        { key: key('a'), version },
        { key: key('a'), version: null },
        { emptyBucket: BUCKET },
        { number: key('n', NUMBERS), atLeast: 6n },
        { number: key('n', NUMBERS), atMost: 5n },
        { number: key('none', NUMBERS), atLeast: 1n },
      ].map((one) => ('version' in one && one.version !== version ? { key: key('a'), version: null } : one)),
      write: [
        { key: key('b'), value: Buffer.from('b') },
        { key: key('a'), value: null },
      ],
      patch: [{ number: key('n', NUMBERS), add: 1n }],
      publish: [{ shard: `${V}s`, message: Buffer.from('no') }],
    });
    expect(result).toEqual({
      ok: false,
      mismatches: [
        { index: 1, kind: 'value', current: { value: Buffer.from('a'), version } },
        { index: 2, kind: 'bucket', count: 1 },
        { index: 3, kind: 'number', current: 5n },
        { index: 5, kind: 'number', current: 0n },
      ],
    });
    expect(await readOne(engine, key('b'))).toBeNull();
    expect((await readOne(engine, key('a')))?.version).toBe(version);
    expect(await readNumber(engine, key('n', NUMBERS))).toBe(5n);
    await apply(engine, { publish: [{ shard: `${V}s`, message: Buffer.from('yes') }] });
    await until(() => heard.messages.length > 0);
    expect(heard.messages).toEqual([`${V}s yes`]);
  });

  test('an empty bucket is one without value records', async () => {
    const engine = await open();
    await apply(engine, { compare: [{ emptyBucket: BUCKET }], ...put('a') });
    expect(await engine.commit({ compare: [{ emptyBucket: BUCKET }], ...put('b') })).toMatchObject({ ok: false });
    await apply(engine, put('a', null));
    await apply(engine, { compare: [{ emptyBucket: BUCKET }], ...put('b') });
  });

  test('a commit of nothing but compares is a consistent check', async () => {
    const engine = await open();
    const { version } = await apply(engine, put('a'));
    await apply(engine, { compare: [{ key: key('a'), version }] });
    expect((await readOne(engine, key('a')))?.version).toBe(version);
  });
}

function describeNumbers(open: () => Promise<MetaEngine>): void {
  const n = key('n', NUMBERS);
  const INT64_MAX = 2n ** 63n - 1n;

  test('numbers are added to, raised, removed; an absent one reads as null and counts as 0', async () => {
    const engine = await open();
    expect(await readNumber(engine, n)).toBeNull();
    expect((await apply(engine, { patch: [{ number: n, add: -3n }] })).numbers).toEqual([-3n]);
    expect((await apply(engine, { patch: [{ number: n, max: -5n }] })).numbers).toEqual([-3n]);
    expect((await apply(engine, { patch: [{ number: n, max: -1n }] })).numbers).toEqual([-1n]);
    expect((await apply(engine, { patch: [{ number: n, max: 12n }] })).numbers).toEqual([12n]);
    expect((await apply(engine, { patch: [{ number: n, remove: true }] })).numbers).toEqual([null]);
    expect(await readNumber(engine, n)).toBeNull();
    await apply(engine, { patch: [{ number: n, remove: true }] });
    await apply(engine, {
      compare: [
        { number: n, atLeast: 0n },
        { number: n, atMost: 0n },
      ],
    });
    expect(await engine.numbers(NUMBERS)).toEqual([]);
  });

  test('several patches of one number apply in order', async () => {
    const engine = await open();
    const patch = [
      { number: n, add: 5n },
      { number: n, max: 3n },
      { number: n, remove: true },
      { number: n, add: -2n },
    ] as const;
    expect((await apply(engine, { patch })).numbers).toEqual([5n, 5n, null, -2n]);
    expect(await readNumber(engine, n)).toBe(-2n);
  });

  test.each([
    2n ** 53n - 1n,
    2n ** 53n,
    2n ** 53n + 1n,
    1_795_739_545_206_123_457n,
    INT64_MAX,
    -INT64_MAX,
    -(2n ** 53n) - 1n,
  ])('%d is exact in patches, results and compares', async (value) => {
    const engine = await open();
    const raised = key('raised', NUMBERS);
    const { numbers } = await apply(engine, {
      patch: [
        { number: n, add: value },
        { number: raised, max: value },
      ],
    });
    expect(numbers).toEqual([value, value]);
    expect(await engine.readNumbers([n, raised])).toEqual([value, value]);
    await apply(engine, {
      compare: [
        { number: n, atLeast: value },
        { number: n, atMost: value },
      ],
    });
    const near = value > 0n ? -1n : 1n;
    const [above, below] = [value > 0n ? value : value + near, value > 0n ? value + near : value];
    if (above !== value)
      expect(await engine.commit({ compare: [{ number: n, atLeast: above }] })).toMatchObject({ ok: false });
    if (below !== value)
      expect(await engine.commit({ compare: [{ number: n, atMost: below }] })).toMatchObject({ ok: false });
    expect((await apply(engine, { patch: [{ number: n, add: near }] })).numbers).toEqual([value + near]);
    expect((await apply(engine, { patch: [{ number: raised, max: value + near }] })).numbers).toEqual([
      near > 0n ? value + near : value,
    ]);
  });

  test('a number that would leave 64 bits refuses the whole commit', async () => {
    const engine = await open();
    const other = key('other', NUMBERS);
    const times = key('times', NUMBERS);
    const fresh = key('fresh', NUMBERS);
    await apply(engine, {
      patch: [
        { number: n, add: INT64_MAX },
        { number: other, add: 10n },
        { number: times, max: 5n },
      ],
    });
    const commit = engine.commit({
      ...put('a'),
      patch: [
        { number: other, add: 3n },
        { number: times, max: 9n },
        { number: fresh, max: 9n },
        { number: other, remove: true },
        { number: n, add: 1n },
      ],
    });
    await expect(commit).rejects.toMatchObject({ code: 'too-large' });
    expect(await engine.readNumbers([n, other, times, fresh])).toEqual([INT64_MAX, 10n, 5n, null]);
    expect(await readOne(engine, key('a'))).toBeNull();
  });
}

function describeLimits(open: () => Promise<MetaEngine>): void {
  test('a commit changes 1,000 records, and no more', async () => {
    const engine = await open();
    const fields = Array.from({ length: COMMIT_RECORDS_MAX }, (_, i) => `f${i}`);
    const write = fields.map((field) => ({ key: key(field), value: Buffer.from(field) }));
    const compare = fields.map((field) => ({ key: key(field), version: null }));
    await apply(engine, { compare, write });
    expect(await engine.count(BUCKET)).toBe(COMMIT_RECORDS_MAX);
    const again = await engine.commit({ compare, write });
    expect(again.ok ? [] : again.mismatches.map(({ index }) => index)).toEqual(fields.map((_, i) => i));
    const tooMany = { ...put('x'), patch: write.map(({ key: number }) => ({ number, add: 1n })) };
    await expect(engine.commit(tooMany)).rejects.toMatchObject({ code: 'too-large' });
    await expect(engine.commit({ compare: [...compare, { emptyBucket: BUCKET }] })).rejects.toMatchObject({
      code: 'too-large',
    });
  });

  test('a value has at most 1 MiB, an operation id 64 bytes, a commit 64 MiB', async () => {
    const engine = await open();
    const largest = Buffer.alloc(VALUE_BYTES_MAX, 7);
    await apply(engine, { ...put('a', largest), operation: 'o'.repeat(64) });
    expect((await readOne(engine, key('a')))?.value.equals(largest)).toBe(true);
    await expect(engine.commit(put('a', Buffer.alloc(VALUE_BYTES_MAX + 1)))).rejects.toMatchObject({
      code: 'too-large',
    });
    await expect(engine.commit({ operation: 'ö'.repeat(33) })).rejects.toMatchObject({ code: 'too-large' });
    const count = COMMIT_BYTES_MAX / VALUE_BYTES_MAX + 1;
    const write = Array.from({ length: count }, (_, i) => ({ key: key(`f${i}`), value: largest }));
    await expect(engine.commit({ write })).rejects.toMatchObject({ code: 'too-large' });
  });

  test('addresses that are no byte strings, have no hash tag or another one, are broken invariants', async () => {
    const engine = await open();
    await expect(engine.commit(put('snow \u2603'))).rejects.toBeInstanceOf(AssertionError);
    await expect(engine.commit(put('a', 'a', 'untagged'))).rejects.toBeInstanceOf(AssertionError);
    await expect(engine.read([key('a', 'untagged')])).rejects.toBeInstanceOf(AssertionError);
    await expect(
      engine.commit({ ...put('a'), publish: [{ shard: '{w}s', message: Buffer.alloc(1) }] }),
    ).rejects.toBeInstanceOf(AssertionError);
    expect(await collect(engine.buckets('{'))).toEqual([]);
  });
}

function describeOperations(open: () => Promise<MetaEngine>, freshUrl: () => Promise<string>): void {
  const n = key('n', NUMBERS);

  test('a repeated operation gets the first result and changes nothing', async () => {
    const engine = await open();
    const heard = listener();
    await engine.subscribe([`${V}s`], heard.handlers);
    const transaction: Minitransaction = {
      compare: [{ key: key('a'), version: null }],
      ...put('a'),
      patch: [
        { number: n, add: 2n ** 60n + 1n },
        { number: key('gone', NUMBERS), remove: true },
      ],
      publish: [{ shard: `${V}s`, message: Buffer.from('once') }],
      operation: 'create a ö',
    };
    const first = await apply(engine, transaction);
    expect(first).toMatchObject({ repeated: false, numbers: [2n ** 60n + 1n, null] });
    await apply(engine, put('a', 'changed since'));
    expect(await engine.commit(transaction)).toEqual({ ...first, repeated: true });
    expect((await readOne(engine, key('a')))?.value.toString()).toBe('changed since');
    expect(await readNumber(engine, n)).toBe(2n ** 60n + 1n);
    await apply(engine, { publish: [{ shard: `${V}s`, message: Buffer.from('end') }] });
    await until(() => heard.messages.includes(`${V}s end`));
    expect(heard.messages).toEqual([`${V}s once`, `${V}s end`]);
  });

  test('a failed compare is not remembered', async () => {
    const engine = await open();
    await apply(engine, put('a'));
    const transaction = { compare: [{ key: key('a'), version: null }], ...put('a'), operation: 'o' };
    expect(await engine.commit(transaction)).toMatchObject({ ok: false });
    await apply(engine, put('a', null));
    expect(await engine.commit(transaction)).toMatchObject({ ok: true, repeated: false });
  });

  test('concurrent repeats of one operation apply once', async () => {
    const engine = await open();
    const results = await Promise.all(
      Array.from({ length: 8 }, () => apply(engine, { patch: [{ number: n, add: 1n }], operation: 'same' })),
    );
    expect(results.filter(({ repeated }) => !repeated)).toHaveLength(1);
    expect(new Set(results.map(({ version }) => version)).size).toBe(1);
    expect(await readNumber(engine, n)).toBe(1n);
  });

  test(`${RING_SIZE} results are kept, per session`, async () => {
    const url = await freshUrl();
    const engine = await openFor(url);
    const other = await openFor(url);
    const operation = (i: number): Minitransaction => ({ patch: [{ number: n, add: 1n }], operation: `op-${i}` });
    await apply(engine, operation(0));
    expect(await apply(other, operation(0))).toMatchObject({ repeated: false });
    for (let i = 1; i < RING_SIZE; i += 1023) {
      await Promise.all(
        Array.from({ length: Math.min(1023, RING_SIZE - i) }, (_, k) => apply(engine, operation(i + k))),
      );
    }
    expect(await apply(engine, operation(0))).toMatchObject({ repeated: true, numbers: [1n] });
    expect(await readNumber(engine, n)).toBe(BigInt(RING_SIZE) + 1n);
  });
}
