/** A part of the contract suite (meta-contract.ts): the records as they were at one instant. */
import { expect, test } from 'vitest';
import { INSTANTS_MAX } from '../../lib/meta/engine.ts';
import type { MetaEngine, MetaReader, Minitransaction } from '../../lib/meta/engine.ts';
import { NUMBERS, V, apply, collect, key, openFor, put, scanAll } from './meta-helpers.ts';

const FIELDS = 40;
const BUCKETS = 6;

/** A generator of numbers below `bound`, the same for the same seed. */
function random(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return Math.floor(state / 65_536) % bound;
  };
}

/** Everything below the tag, by whichever calls. */
async function everything(reader: MetaReader): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const bucket of await collect(reader.buckets(V))) {
    if (bucket === NUMBERS) {
      for (const [field, value] of await reader.numbers(bucket)) found.set(`${bucket} ${field}`, String(value));
    } else {
      for (const [field, value] of await scanAll(reader, bucket, 7)) found.set(`${bucket} ${field}`, value.toString());
    }
  }
  return found;
}

function change(next: (bound: number) => number, round: number): Minitransaction {
  const write = Array.from({ length: 1 + next(5) }, (_, n) => ({
    key: key(`f${next(FIELDS)}`, `${V}b${next(BUCKETS)}`),
    value: next(3) === 0 ? null : Buffer.from(`${round} ${n}`),
  }));
  const number = key(`n${next(10)}`, NUMBERS);
  const kind = next(4);
  const patch = kind === 0 ? { number, remove: true as const } : { number, add: BigInt(next(9)) - 4n };
  return { write, patch: [kind === 1 ? { number, max: BigInt(next(100)) } : patch] };
}

export function describeInstants(freshUrl: () => Promise<string>): void {
  test.each([1, 2, 3, 4])(
    'instants show what was there, whatever is committed between their reads: seed %d',
    async (seed) => {
      const url = await freshUrl();
      const [engine, other] = [await openFor(url), await openFor(url)];
      const next = random(seed);
      for (let round = 0; round < 150; round++) await apply(engine, change(next, round));
      const taken: { readonly reader: MetaReader; readonly shown: ReadonlyMap<string, string> }[] = [];
      for (let n = 0; n < 3; n++) {
        taken.push({ shown: await everything(engine), reader: await engine.instant(V) });
        for (let round = 0; round < 40; round++) await apply(next(2) === 0 ? engine : other, change(next, round));
      }
      // A commit before each page.
      const disturbed = (reader: MetaReader): MetaReader => ({
        ...{ read: (keys) => reader.read(keys), readNumbers: (keys) => reader.readNumbers(keys) },
        ...{ buckets: (prefix) => reader.buckets(prefix), numbers: (bucket) => reader.numbers(bucket) },
        async scan(bucket, cursor, limit) {
          await apply(other, change(next, 1000));
          return reader.scan(bucket, cursor, limit);
        },
      });
      for (const { reader, shown } of taken) {
        expect(await everything(disturbed(reader))).toEqual(shown);
        const keys = [...shown.keys()]
          .map((name) => name.split(' '))
          .map(([bucket = '', field = '']) => key(field, bucket));
        const values = keys.filter(({ bucket }) => bucket !== NUMBERS);
        const read = await reader.read(values);
        expect(read.map((one) => one?.value.toString())).toEqual(
          values.map(({ bucket, field }) => shown.get(`${bucket} ${field}`)),
        );
        for (let field = 0; field < FIELDS; field++) {
          const [absent] = await reader.read([key(`f${field}`, `${V}b0`)]);
          expect(absent !== null).toBe(shown.has(`${V}b0 f${field}`));
        }
        for (let field = 0; field < 10; field++) {
          const [number] = await reader.readNumbers([key(`n${field}`, NUMBERS)]);
          expect(String(number)).toBe(shown.get(`${NUMBERS} n${field}`) ?? 'null');
        }
      }
    },
  );

  test('an instant of a large bucket that is emptied while it is scanned', async () => {
    const engine = await openFor(await freshUrl());
    const fields = Array.from({ length: 3000 }, (_, n) => `f${n}`);
    for (let at = 0; at < 3000; at += 500)
      await apply(engine, { write: fields.slice(at, at + 500).flatMap((field) => put(field).write ?? []) });
    const instant = await engine.instant(V);
    const found = new Set<string>();
    let cursor: string | null = '';
    for (let at = 0; cursor !== null; at += 500) {
      const page: Awaited<ReturnType<MetaEngine['scan']>> = await instant.scan(key('').bucket, cursor, 100);
      for (const [field] of page.entries) found.add(field);
      cursor = page.cursor;
      const some = fields.slice(at, at + 500);
      if (some.length > 0) await apply(engine, { write: some.flatMap((field) => put(field, null).write ?? []) });
    }
    expect(found.size).toBe(3000);
    expect(await engine.count(key('').bucket)).toBe(0);
  });

  test('so many instants at a time, each of them closed for good', async () => {
    const engine = await openFor(await freshUrl());
    await apply(engine, put('a'));
    const open = [];
    for (let n = 0; n < INSTANTS_MAX; n++) open.push(await engine.instant(V));
    await expect(engine.instant(V)).rejects.toMatchObject({ code: 'held' });
    const [first] = open;
    await first?.close();
    await first?.close();
    await expect(first?.read([key('a')])).rejects.toMatchObject({ code: 'closed' });
    const again = await engine.instant(V);
    await apply(engine, put('a', 'b'));
    expect((await again.read([key('a')]))[0]?.value.toString()).toBe('a');
  });
}
