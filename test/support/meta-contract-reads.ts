/** A part of the contract suite (meta-contract.ts): links, scans, buckets. */
import { expect, test } from 'vitest';
import type { MetaEngine, ScanPage } from '../../lib/meta/engine.ts';
import { BUCKET, V, apply, collect, key, put } from './meta-helpers.ts';

export function describeReads(open: () => Promise<MetaEngine>): void {
  const link = { bucketPrefix: `${V}i:`, shift: 8 };
  const idBytes = (id: bigint): Buffer => {
    const bytes = Buffer.alloc(9);
    bytes.writeBigUInt64BE(id);
    return bytes;
  };

  test.each([0n, 255n, 256n, 123_456_789n, 2n ** 53n - 1n, 2n ** 53n + 257n, 2n ** 64n - 1n])(
    'follow reads a record and its target: id %d',
    async (id) => {
      const engine = await open();
      expect(await engine.follow(key('name'), link)).toEqual({ record: null, target: null });
      await apply(engine, put('name', idBytes(id)));
      expect(await engine.follow(key('name'), link)).toMatchObject({ record: { value: idBytes(id) }, target: null });
      await apply(engine, put(String(id & 255n), 'inode', `${V}i:${id >> 8n}`));
      expect(await engine.follow(key('name'), link)).toMatchObject({
        record: { value: idBytes(id) },
        target: { value: Buffer.from('inode') },
      });
    },
  );

  test('a record too short for a link has no target', async () => {
    const engine = await open();
    await apply(engine, put('name', Buffer.alloc(7)));
    expect(await engine.follow(key('name'), link)).toMatchObject({ record: { value: Buffer.alloc(7) }, target: null });
  });

  test('a scan gives every record that is there throughout, while others come and go', async () => {
    const engine = await open();
    const stay = Array.from({ length: 2000 }, (_, i) => `stay${i}`);
    for (let i = 0; i < stay.length; i += 500)
      await apply(engine, { write: stay.slice(i, i + 500).flatMap((field) => put(field).write ?? []) });
    const found = new Set<string>();
    let cursor: string | null = '';
    for (let page = 0; cursor !== null; page++) {
      const { entries, cursor: next }: ScanPage = await engine.scan(BUCKET, cursor, 100);
      for (const [field, { value }] of entries) {
        expect(value.toString()).toBe(field);
        found.add(field);
      }
      cursor = next;
      if (page > 100) continue;
      const come = Array.from({ length: 50 }, (_, i) => put(`come${page}-${i}`).write ?? []).flat();
      const go = Array.from({ length: 25 }, (_, i) => put(`come${page - 1}-${i}`, null).write ?? []).flat();
      await apply(engine, { write: [...come, ...go] });
    }
    expect(stay.filter((field) => !found.has(field))).toEqual([]);
  });

  test('an empty bucket scans as one empty page', async () => {
    const engine = await open();
    expect(await engine.scan(BUCKET, '', 10)).toEqual({ entries: [], cursor: null });
    expect(await engine.count(BUCKET)).toBe(0);
  });

  test('buckets are found by prefix, whatever characters it has', async () => {
    const engine = await open();
    const names = [`${V}a*`, `${V}ab`, `${V}a[b]`, `${V}a\\`, `${V}a?`, V];
    for (const bucket of names) await apply(engine, put('f', 'f', bucket));
    await apply(engine, { patch: [{ number: key('n', `${V}a*n`), add: 1n }] });
    await apply(engine, put('f', 'f', '{w}a*'));
    for (const [prefix, expected] of [
      [`${V}a*`, [`${V}a*`, `${V}a*n`]],
      [`${V}a[b`, [`${V}a[b]`]],
      [`${V}a\\`, [`${V}a\\`]],
      [`${V}a?`, [`${V}a?`]],
      ['{w}', ['{w}a*']],
      [V, [...names, `${V}a*n`].sort()],
    ] as const) {
      expect(await collect(engine.buckets(prefix))).toEqual(expected);
    }
  });

  test('many buckets are all found', async () => {
    const engine = await open();
    const names = Array.from({ length: 3000 }, (_, i) => `${V}many:${i}`);
    for (let i = 0; i < names.length; i += 1000) {
      await apply(engine, {
        write: names.slice(i, i + 1000).map((bucket) => ({ key: key('f', bucket), value: Buffer.of(1) })),
      });
    }
    expect(await collect(engine.buckets(`${V}many:`))).toEqual(names.sort());
  });
}
