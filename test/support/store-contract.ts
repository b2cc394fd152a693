/** What every ObjectStore adapter must do; run by test/store/ on each of them. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { ObjectStore } from '../../lib/store/store.ts';
import { collect } from './collect.ts';
import { HANG_MS } from './hang.ts';
import { tempDir } from './temp.ts';

/** `open` gives an empty store; each call another one. `reopen` opens the same store again, as another process would. */
export function storeContract(open: () => Promise<{ store: ObjectStore; reopen: () => Promise<ObjectStore> }>): void {
  async function emptyStore(): Promise<ObjectStore> {
    const { store } = await open();
    onTestFinished(() => store.close());
    return store;
  }

  async function keys(store: ObjectStore, prefix = '', after?: string): Promise<string[]> {
    return (await collect(store.list(prefix, after === undefined ? {} : { after }))).map(({ key }) => key);
  }

  describe('put and get', () => {
    it('give back the bytes, whole and by range', async () => {
      const store = await emptyStore();
      const bytes = randomBytes(10_000);
      const info = await store.put('a/b/c.bin', [bytes.subarray(0, 10), bytes.subarray(10)]);
      expect(info).toMatchObject({ key: 'a/b/c.bin', bytes: 10_000 });
      expect(await store.get('a/b/c.bin')).toEqual(bytes);
      expect(await store.get('a/b/c.bin', { offset: 9000 })).toEqual(bytes.subarray(9000));
      expect(await store.get('a/b/c.bin', { offset: 100, length: 50 })).toEqual(bytes.subarray(100, 150));
      expect(await store.get('a/b/c.bin', { length: 7 })).toEqual(bytes.subarray(0, 7));
      expect(await store.get('a/b/c.bin', { offset: 10_000 })).toEqual(Buffer.alloc(0));
      expect(await store.get('a/b/c.bin', { offset: 5, length: 0 })).toEqual(Buffer.alloc(0));
      expect(await store.head('a/b/c.bin')).toMatchObject({ key: 'a/b/c.bin', bytes: 10_000, etag: info.etag });
    });

    it('fill the memory that is given', async () => {
      const store = await emptyStore();
      const bytes = randomBytes(3_000_000);
      await store.put('large', bytes);
      const memory = Buffer.alloc(2_500_000);
      for (const offset of [0, 500_000]) {
        const got = await store.get('large', { offset, length: memory.length, into: memory });
        expect(got).toBe(memory);
        expect(got.equals(bytes.subarray(offset, offset + memory.length))).toBe(true);
      }
      await expect(store.get('large', { offset: 600_000, length: 2_500_000, into: memory })).rejects.toMatchObject({
        code: 'corrupt',
      });
      await expect(store.get('none', { offset: 0, length: 10, into: Buffer.alloc(10) })).rejects.toMatchObject({
        code: 'not-found',
      });
      const all = Array.from({ length: 40 }, () => Buffer.alloc(100_000));
      await Promise.all(all.map((into, n) => store.get('large', { offset: n * 50_000, length: 100_000, into })));
      expect(all.every((part, n) => part.equals(bytes.subarray(n * 50_000, n * 50_000 + 100_000)))).toBe(true);
    });

    it('keep an empty object', async () => {
      const store = await emptyStore();
      await store.put('empty', Buffer.alloc(0));
      expect(await store.get('empty')).toEqual(Buffer.alloc(0));
      expect(await store.head('empty')).toMatchObject({ bytes: 0 });
    });

    it('say what is missing', async () => {
      const store = await emptyStore();
      await expect(store.get('none/here')).rejects.toMatchObject({
        code: 'not-found',
        message: expect.stringContaining('none/here') as string,
      });
      await expect(store.getFile('none', join(tempDir(), 'f'))).rejects.toMatchObject({ code: 'not-found' });
      expect(await store.head('none/here')).toBeNull();
    });

    it('call an object that ends too early corrupt, by name', async () => {
      const store = await emptyStore();
      await store.put('short', Buffer.from('12345'));
      for (const range of [
        { offset: 2, length: 4 },
        { offset: 9, length: 1 },
        { offset: 9 },
        { length: 6 },
        { offset: 6, length: 0 },
      ]) {
        await expect(store.get('short', range)).rejects.toMatchObject({
          code: 'corrupt',
          message: expect.stringContaining('short') as string,
        });
      }
    });

    it('replace an object, with another etag, while a compare on the old one fails', async () => {
      const store = await emptyStore();
      const etags = new Set<string>();
      for (let n = 0; n < 20; n++)
        etags.add((await store.put('k', Buffer.from(`value ${String(n).padStart(2, '0')}`))).etag);
      expect(etags.size).toBe(20);
      const [first] = etags;
      await expect(store.get('k', { ifMatch: first ?? '' })).rejects.toMatchObject({ code: 'conflict' });
      expect((await store.get('k', { ifMatch: [...etags].at(-1) ?? '' })).toString()).toBe('value 19');
    });
  });

  describe('conditional puts', () => {
    it('with ifAbsent have exactly one winner over many', async () => {
      const { store, reopen } = await open();
      const stores = [store, ...(await Promise.all(Array.from({ length: 3 }, reopen)))];
      onTestFinished(async () => {
        for (const each of stores) await each.close();
      });
      const results = await Promise.allSettled(
        Array.from({ length: 16 }, (_, n) =>
          (stores[n % stores.length] ?? store).put('race', Buffer.from(`winner ${n}`), { ifAbsent: true }),
        ),
      );
      const winners = results.flatMap(({ status }, n) => (status === 'fulfilled' ? [n] : []));
      expect(winners).toHaveLength(1);
      expect((await store.get('race')).toString()).toBe(`winner ${winners[0]}`);
      for (const result of results)
        if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'exists' });
    });

    it('with ifMatch lose no update', async () => {
      const store = await emptyStore();
      await store.put('counter', Buffer.from('0'));
      const increment = async (): Promise<void> => {
        for (let tries = 0; tries < 200; tries++) {
          const info = await store.head('counter');
          const value = await store.get('counter', { ifMatch: info?.etag ?? '' }).catch(() => null);
          if (value === null) continue;
          const next = Buffer.from(String(Number(value.toString()) + 1).padStart(8, '0'));
          const done = await store.put('counter', next, { ifMatch: info?.etag ?? '' }).catch((error: unknown) => {
            expect(error).toMatchObject({ code: 'conflict' });
            return null;
          });
          if (done !== null) return;
        }
        throw new Error('never won');
      };
      await Promise.all(Array.from({ length: 6 }, increment));
      expect(Number((await store.get('counter')).toString())).toBe(6);
      await expect(store.put('absent', Buffer.from('x'), { ifMatch: 'none' })).rejects.toMatchObject({
        code: 'conflict',
      });
      expect(await store.head('absent')).toBeNull();
    });
  });

  describe('files', () => {
    it.each([
      ['empty', 0],
      ['small', 1000],
      ['of many parts', 20_000_003],
    ])('go in and out whole (%s)', async (_, size) => {
      const store = await emptyStore();
      const folder = tempDir();
      const bytes = randomBytes(size);
      await writeFile(join(folder, 'in'), bytes);
      await writeFile(join(folder, 'out'), 'longer content that must go away '.repeat(100));
      expect(await store.putFile('dir/file', join(folder, 'in'))).toMatchObject({ bytes: size });
      expect(await store.getFile('dir/file', join(folder, 'out'))).toMatchObject({ bytes: size });
      expect((await readFile(join(folder, 'out'))).equals(bytes)).toBe(true);
    });

    it('that do not fit on the disk are an error, also where it took the beginning of a write', async ({ skip }) => {
      const store = await emptyStore();
      const small = tempDir('small');
      const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small], { timeout: HANG_MS });
      if (mounted.status !== 0) skip('no right to mount a tmpfs here');
      onTestFinished(() => void spawnSync('umount', ['-l', small], { timeout: HANG_MS }));
      await store.put('large', randomBytes(1_500_000));
      await expect(store.getFile('large', join(small, 'out'))).rejects.toMatchObject({ code: 'full' });
    });

    it('of many parts obey ifAbsent', async () => {
      const store = await emptyStore();
      const path = join(tempDir(), 'in');
      await writeFile(path, randomBytes(9_000_000));
      await store.putFile('big', path, { ifAbsent: true });
      await expect(store.putFile('big', path, { ifAbsent: true })).rejects.toMatchObject({ code: 'exists' });
    });

    it('that are not there leave nothing', async () => {
      const store = await emptyStore();
      await expect(store.putFile('k', join(tempDir(), 'none'))).rejects.toMatchObject({ code: 'not-found' });
      expect(await keys(store)).toEqual([]);
    });
  });

  describe('list', () => {
    it('is in byte order of the whole key, with prefix and after', async () => {
      const store = await emptyStore();
      const names = ['a.txt', 'a/b', 'a/c/d', 'a0', 'ab', 'b', 'é', '\uf000', '\u{10000}'];
      for (const name of [...names].reverse()) await store.put(name, Buffer.from(name));
      expect(await keys(store)).toEqual(names);
      expect(await keys(store, 'a/')).toEqual(['a/b', 'a/c/d']);
      expect(await keys(store, 'a')).toEqual(['a.txt', 'a/b', 'a/c/d', 'a0', 'ab']);
      expect(await keys(store, 'a/c')).toEqual(['a/c/d']);
      expect(await keys(store, '', 'a/b')).toEqual(names.slice(2));
      expect(await keys(store, '', 'a/')).toEqual(names.slice(1));
      expect(await keys(store, 'a/', 'a/b')).toEqual(['a/c/d']);
      expect(await keys(store, 'none/')).toEqual([]);
      expect(await collect(store.list('b'))).toMatchObject([{ key: 'b', bytes: 1 }]);
    });

    it('agrees with a naive model for any keys', async () => {
      const segment = fc.string({
        unit: fc.constantFrom('a', 'b', '.', '-', '0', 'é', '\u{10000}'),
        minLength: 1,
        maxLength: 2,
      });
      const key = fc
        .array(
          segment.filter((text) => text !== '.' && text !== '..'),
          { minLength: 1, maxLength: 3 },
        )
        .map((parts) => parts.join('/'));
      await fc.assert(
        fc.asyncProperty(fc.uniqueArray(key, { maxLength: 12 }), key, fc.nat(3), async (all, after, cut) => {
          const { store } = await open();
          // An object and the folder of another cannot have one name.
          const names = all.filter((name) => !all.some((other) => other.startsWith(`${name}/`)));
          for (const name of names) await store.put(name, Buffer.from('x'));
          const sorted = names.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
          expect(await keys(store)).toEqual(sorted);
          const above = sorted.filter((name) => Buffer.compare(Buffer.from(name), Buffer.from(after)) > 0);
          expect(await keys(store, '', after)).toEqual(above);
          const prefix = Array.from(after).slice(0, cut).join('');
          expect(await keys(store, prefix)).toEqual(sorted.filter((name) => name.startsWith(prefix)));
          await store.close();
        }),
        { numRuns: 15 },
      );
    });
  });

  it('delete takes what is there and what is not, in any number', async () => {
    const store = await emptyStore();
    const names = Array.from({ length: 30 }, (_, n) => `d/${n % 3}/${n}`);
    for (const name of names) await store.put(name, Buffer.from('x'));
    await store.put('d/kept', Buffer.from('x'));
    await store.delete([...names, ...Array.from({ length: 1100 }, (_, n) => `absent/${n}`)]);
    expect(await keys(store)).toEqual(['d/kept']);
    await store.put('d/0', Buffer.from('a folder was here'));
    expect(await keys(store)).toEqual(['d/0', 'd/kept']);
  });

  it('hostile keys are refused by every call, and touch nothing', async () => {
    const store = await emptyStore();
    const long = 'x'.repeat(256);
    const hostile = [
      '',
      '/',
      '/etc/passwd',
      '../x',
      'a/../../x',
      'a/..',
      './a',
      'a//b',
      'a/',
      'a\0b',
      'a\nb',
      '\ud800',
      long,
      `${'y/'.repeat(460)}z`,
      '.penstock/uploads/x',
    ];
    for (const key of hostile) {
      const refused = { code: 'usage' };
      await expect(store.put(key, Buffer.from('x'))).rejects.toMatchObject(refused);
      await expect(store.get(key)).rejects.toMatchObject(refused);
      await expect(store.head(key)).rejects.toMatchObject(refused);
      await expect(store.delete([key])).rejects.toMatchObject(refused);
    }
    expect(await keys(store)).toEqual([]);
  });

  it('locations name objects both ways', async () => {
    const store = await emptyStore();
    const location = store.location('tables/a/b c=d.parquet');
    expect(location).toMatch(/^(file:\/\/\/|s3:\/\/)/);
    expect(store.keyOf(location)).toBe('tables/a/b c=d.parquet');
    expect(store.keyOf('file:///elsewhere/x')).toBeNull();
    expect(store.keyOf('s3://elsewhere/x')).toBeNull();
  });

  it('a call whose signal has fired is aborted, and a closed store is closed', async () => {
    const { store } = await open();
    const signal = AbortSignal.abort();
    await expect(store.put('k', Buffer.from('x'), { signal })).rejects.toMatchObject({ code: 'aborted' });
    await expect(store.get('k', { signal })).rejects.toMatchObject({ code: 'aborted' });
    expect(await store.head('k')).toBeNull();
    await store.close();
    await expect(store.get('k')).rejects.toMatchObject({ code: 'closed' });
  });
}
