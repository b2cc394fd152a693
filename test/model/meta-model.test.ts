/**
 * Random minitransactions on a real engine beside a naive model in memory, with answers that are lost: what both say must be the same.
 * PENSTOCK_SEED replays a run, PENSTOCK_RUNS makes it longer.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type {
  CommitResult,
  Compare,
  Key,
  MetaEngine,
  Minitransaction,
  Patch,
  Version,
  Write,
} from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';

const SEED = Number(process.env['PENSTOCK_SEED'] ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env['PENSTOCK_RUNS'] ?? 60);
const COMMANDS_MAX = 40;
const INT64_MAX = 2n ** 63n - 1n;
const BUCKETS = ['{m}a', '{m}b'];
const NUMBER_BUCKET = '{m}n';
const FIELDS = ['x', '\x00', '\xff\x80', ''];

/** A commit as drawn: versions are chosen when it runs, as the model knows which are current. */
interface Draft {
  readonly compares: readonly (
    | { readonly key: Key; readonly holds: boolean }
    | { readonly emptyBucket: string }
    | { readonly number: Key; readonly atLeast: bigint }
    | { readonly number: Key; readonly atMost: bigint }
  )[];
  readonly writes: readonly { readonly key: Key; readonly value: Uint8Array | null }[];
  readonly patches: readonly Patch[];
  /** When the answer is lost: before the effect, after it, or not at all. */
  readonly fault: 'before' | 'after' | null;
}

class Model {
  readonly records = new Map<string, { value: Buffer; version: Version }>();
  readonly numbers = new Map<string, bigint>();

  static name({ bucket, field }: Key): string {
    return `${bucket} ${field}`;
  }

  number(key: Key): bigint {
    return this.numbers.get(Model.name(key)) ?? 0n;
  }

  holds(compare: Compare): boolean {
    if ('key' in compare) return (this.records.get(Model.name(compare.key))?.version ?? null) === compare.version;
    if ('emptyBucket' in compare) return this.count(compare.emptyBucket) === 0;
    const current = this.number(compare.number);
    return 'atLeast' in compare ? current >= compare.atLeast : current <= compare.atMost;
  }

  count(bucket: string): number {
    return [...this.records.keys()].filter((name) => name.startsWith(`${bucket} `)).length;
  }

  /** The numbers after the patches, or null at an overflow. */
  patched(patches: readonly Patch[]): (bigint | null)[] | null {
    const numbers = new Map(this.numbers);
    const results: (bigint | null)[] = [];
    for (const patch of patches) {
      const name = Model.name(patch.number);
      const before = numbers.get(name);
      if ('remove' in patch) {
        numbers.delete(name);
        results.push(null);
        continue;
      }
      const after =
        'add' in patch ? (before ?? 0n) + patch.add : before === undefined || before < patch.max ? patch.max : before;
      if (after > INT64_MAX || after < -INT64_MAX - 1n) return null;
      numbers.set(name, after);
      results.push(after);
    }
    this.numbers.clear();
    for (const [name, value] of numbers) this.numbers.set(name, value);
    return results;
  }

  write(writes: readonly Write[], version: Version): void {
    for (const { key, value } of writes) {
      if (value === null) this.records.delete(Model.name(key));
      else this.records.set(Model.name(key), { value: Buffer.from(value), version });
    }
  }
}

const key = fc.record({ bucket: fc.constantFrom(...BUCKETS), field: fc.constantFrom(...FIELDS) });
const numberKey = fc.record({ bucket: fc.constant(NUMBER_BUCKET), field: fc.constantFrom(...FIELDS) });
const int64 = fc.oneof(
  fc.bigInt({ min: -5n, max: 5n }),
  fc.bigInt({ min: -INT64_MAX, max: INT64_MAX }),
  fc.constantFrom(INT64_MAX, -INT64_MAX, 2n ** 53n, -(2n ** 53n) - 1n),
);
const draft: fc.Arbitrary<Draft> = fc.record({
  compares: fc.array(
    fc.oneof(
      { weight: 5, arbitrary: fc.record({ key, holds: fc.constant(true) }) },
      { weight: 1, arbitrary: fc.record({ key, holds: fc.constant(false) }) },
      { weight: 1, arbitrary: fc.record({ emptyBucket: fc.constantFrom(...BUCKETS) }) },
      { weight: 1, arbitrary: fc.record({ number: numberKey, atLeast: int64 }) },
      { weight: 1, arbitrary: fc.record({ number: numberKey, atMost: int64 }) },
    ),
    { maxLength: 3 },
  ),
  writes: fc.array(fc.record({ key, value: fc.option(fc.uint8Array({ maxLength: 80 }), { nil: null }) }), {
    maxLength: 4,
  }),
  patches: fc.array(
    fc.oneof(
      fc.record({ number: numberKey, add: int64 }),
      fc.record({ number: numberKey, max: int64 }),
      fc.record({ number: numberKey, remove: fc.constant(true as const) }),
    ),
    { maxLength: 3 },
  ),
  fault: fc.constantFrom('before', 'after', null, null, null),
});

function transactionOf({ compares, writes, patches }: Draft, model: Model, operation: string): Minitransaction {
  const compare = compares.map((one): Compare => {
    if (!('key' in one)) return one;
    const current = model.records.get(Model.name(one.key))?.version ?? null;
    // Another record's version, or absence, is what a stale cache would compare.
    const stale = [...model.records.values()].map(({ version }) => version).find((version) => version !== current);
    return { key: one.key, version: one.holds ? current : (stale ?? null) };
  });
  return { compare, write: writes, patch: patches, operation };
}

async function commitOnce(
  engine: MetaEngine,
  fault: Draft['fault'],
  transaction: Minitransaction,
): Promise<CommitResult> {
  if (fault === null) return engine.commit(transaction);
  const plan = new FaultPlan({ call: 0, moment: fault, operation: 'commit' });
  const faulty = faultyEngine(engine, plan);
  await expect(faulty.commit(transaction)).rejects.toBeInstanceOf(Error);
  // As every caller does: the same operation again.
  return faulty.commit(transaction);
}

async function run(engine: MetaEngine, drafts: readonly Draft[]): Promise<void> {
  const model = new Model();
  for (const [i, one] of drafts.entries()) {
    const transaction = transactionOf(one, model, `op-${i}`);
    const failing = (transaction.compare ?? []).flatMap((compare, index) => (model.holds(compare) ? [] : [index]));
    if (failing.length > 0) {
      const result = await commitOnce(engine, one.fault, transaction);
      expect(result.ok ? [] : result.mismatches.map(({ index }) => index)).toEqual(failing);
      continue;
    }
    const numbers = model.patched(one.patches);
    if (numbers === null) {
      await expect(engine.commit(transaction)).rejects.toMatchObject({ code: 'too-large' });
      continue;
    }
    const result = await commitOnce(engine, one.fault, transaction);
    if (!result.ok) throw new Error(`refused: ${JSON.stringify(result.mismatches.map(({ index }) => index))}`);
    expect(result.numbers).toEqual(numbers);
    expect(result.repeated).toBe(one.fault === 'after');
    model.write(one.writes, result.version);
  }
  await expectSame(engine, model);
}

async function expectSame(engine: MetaEngine, model: Model): Promise<void> {
  for (const bucket of BUCKETS) {
    const keys = FIELDS.map((field) => ({ bucket, field }));
    const expected = keys.map((one) => model.records.get(Model.name(one)) ?? null);
    expect(await engine.read(keys)).toEqual(expected);
    expect(await engine.count(bucket)).toBe(model.count(bucket));
    const { entries } = await engine.scan(bucket, '', 100);
    expect(new Set(entries.map(([field]) => field))).toEqual(new Set(FIELDS.filter((_, i) => expected[i] !== null)));
  }
  const numberKeys = FIELDS.map((field) => ({ bucket: NUMBER_BUCKET, field }));
  // A 0 and an absent number are one: on Redis the undoing of an overflow may turn the one into the other.
  const values = await engine.readNumbers(numberKeys);
  expect(values.map((value) => value ?? 0n)).toEqual(numberKeys.map((one) => model.number(one)));
}

async function check(freshUrl: () => Promise<string>): Promise<void> {
  console.log(`seed ${SEED}, ${RUNS} runs`);
  await fc.assert(
    fc.asyncProperty(fc.array(draft, { maxLength: COMMANDS_MAX }), async (drafts) => {
      const engine = await openMeta(await freshUrl(), { kind: 'model', leaseMs: 60_000 });
      try {
        await run(engine, drafts);
      } finally {
        await engine.close();
      }
    }),
    { seed: SEED, numRuns: RUNS },
  );
}

test('SQLite does as the model', async () => {
  const dir = tempDir('meta');
  let files = 0;
  await check(async () => `sqlite:${dir}/${files++}.db?durability=flush`);
});

describe.skipIf(missing('redis-server'))('with a redis-server', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.stop());

  test('Redis does as the model', async () => {
    await check(async () => {
      await server.admin.flushall();
      return server.url();
    });
  });
});
