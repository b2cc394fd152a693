/** Snapshots beside writers: everything in one is of one instant. */
import { expect, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { createSnapshot } from '../../fs-gateway/tools/clone.ts';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import { contentAt, makeDirectory, namesIn, walk, writeFile } from './volume-files.ts';
import { expectSound, gcLater, later, onBothServices } from './volume-bench.ts';
import type { NewVolume } from './volume-bench.ts';
import { bench, LARGE, OPTIONS, reader } from './clone-tree.ts';

const DIRECTORIES = 8;
const FILLING = 40;
const UNITS = 100;
const SNAPSHOTS = 20;

async function setNumber(open: OpenVolume, ino: bigint, value: number): Promise<void> {
  await open.operations.write(caller(), ino, 0n, 0n, Buffer.from(String(value).padStart(8)), 2, false);
  await open.operations.fsync(caller(), ino, 0n, false);
}

async function numberAt(open: OpenVolume, path: string): Promise<number> {
  return Number((await contentAt(open, path)).toString());
}

/** Two programs, each of which has done one thing before it begins with the next. */
class Writers {
  rounds = 0;
  #going = true;
  readonly #done: Promise<unknown>;

  private constructor(done: (writers: Writers) => readonly Promise<void>[]) {
    this.#done = Promise.all(done(this));
  }

  static async begin(first: OpenVolume, second: OpenVolume): Promise<Writers> {
    const directories: bigint[] = [];
    for (let n = 0; n < DIRECTORIES; n++) {
      directories.push(await makeDirectory(first, `d${n}`));
      for (let f = 0; f < FILLING; f++) await writeFile(first, `f${f}`, Buffer.from('f'), directories[n]);
    }
    const at = (n: number): bigint => directories[n % DIRECTORIES] ?? 0n;
    const zero = Buffer.from('0'.padStart(8));
    const [a, b] = [await writeFile(first, 'a', zero, at(0)), await writeFile(first, 'b', zero, at(DIRECTORIES - 1))];
    const units: bigint[] = [];
    for (let n = 0; n < 4; n++)
      units.push(await writeFile(second, 'units', Buffer.from(String(UNITS).padStart(8)), at(n * 2)));
    await writeFile(second, 'token', LARGE, at(0));
    const tree = await makeDirectory(second, 'tree', at(0));
    await writeFile(second, 'leaf', Buffer.from('leaf'), tree);
    return new Writers((writers) => [
      writers.#loop(async (n) => {
        await setNumber(first, a, n);
        await setNumber(first, b, n);
      }),
      writers.#loop(async (n) => {
        await second.operations.rename(caller(), at(n - 1), 'token', at(n), 'token', 0);
        await second.operations.rename(caller(), at(n - 1), 'tree', at(n), 'tree', 0);
        // One unit goes from file to file: it is in none of them for a moment.
        const [from = 0n, to = 0n] = n % 2 === 1 ? [units[0], units[3]] : [units[3], units[0]];
        await setNumber(second, from, n % 2 === 1 ? UNITS - 1 : UNITS);
        await setNumber(second, to, n % 2 === 1 ? UNITS + 1 : UNITS);
        await writeFile(second, `new${n}`, Buffer.alloc(70_000, n), at(n));
        await second.operations.link(caller(), await walk(second, `/d${n % DIRECTORIES}/token`), at(n + 3), `link${n}`);
        await second.operations.unlink(caller(), at(n + 3), `link${n}`);
      }),
    ]);
  }

  async #loop(work: (n: number) => Promise<void>): Promise<void> {
    for (let n = 1; this.#going; n++) {
      await work(n);
      this.rounds = Math.max(this.rounds, n);
    }
  }

  async end(): Promise<void> {
    this.#going = false;
    await this.#done;
  }
}

/** What no instant can show. */
async function violations(open: OpenVolume, root: string): Promise<string[]> {
  const found: string[] = [];
  const [a, b] = [await numberAt(open, `${root}/d0/a`), await numberAt(open, `${root}/d${DIRECTORIES - 1}/b`)];
  if (a - b !== 0 && a - b !== 1) found.push(`a is ${a} and b is ${b}`);
  let [tokens, trees, links] = [0, 0, 0];
  for (let n = 0; n < DIRECTORIES; n++) {
    const names = await namesIn(open, await walk(open, `${root}/d${n}`));
    tokens += names.filter((name) => name === 'token').length;
    links += names.filter((name) => name.startsWith('link')).length;
    if (names.includes('tree')) {
      trees++;
      if ((await contentAt(open, `${root}/d${n}/tree/leaf`)).toString() !== 'leaf') found.push('the leaf is another');
    }
    if (names.filter((name) => /^f\d+$/.test(name)).length !== FILLING) found.push(`d${n} has ${names.length} names`);
    if (!names.includes('token')) continue;
    if (!(await contentAt(open, `${root}/d${n}/token`)).equals(LARGE)) found.push('the token is another');
  }
  if (tokens !== 1 || trees !== 1) found.push(`${tokens} tokens, ${trees} trees`);
  if (links > 1) found.push(`${links} links`);
  let sum = 0;
  for (let n = 0; n < 4; n++) sum += await numberAt(open, `${root}/d${n * 2}/units`);
  if (sum !== 4 * UNITS && sum !== 4 * UNITS - 1 && sum !== 4 * UNITS + 1) found.push(`${sum} units`);
  return found;
}

function suite(newVolume: NewVolume): void {
  test('snapshots beside writers are each of one instant', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const second = await openTestVolume(all.volume, 'second');
    const writers = await Writers.begin(all.open, second);
    try {
      for (let n = 0; n < SNAPSHOTS; n++) {
        const before = writers.rounds;
        // Two at once, now and then.
        const names = n % 5 === 0 ? [`s${n}`, `also${n}`] : [`s${n}`];
        const reports = await Promise.all(names.map((name) => createSnapshot(all.options, name)));
        for (const report of reports) expect(report.consistent).toBe(true);
        await expect.poll(() => writers.rounds, { interval: 1 }).toBeGreaterThan(before);
      }
    } finally {
      await writers.end();
    }
    const open = await reader(all);
    const found: string[] = [];
    const snapshots = await namesIn(open, await walk(open, '/.snapshots'));
    expect(snapshots).toHaveLength(SNAPSHOTS + 4);
    for (const name of snapshots) {
      for (const what of await violations(open, `/.snapshots/${name}`)) found.push(`${name}: ${what}`);
    }
    expect(found).toEqual([]);
    await Promise.all([open.close(), all.open.close(), second.close()]);
    for (let run = 0; run < 2; run++) await gcLater(all);
    await expectSound(all.volume);
    expect(await contentAt(await reader(all), '/.snapshots/s0/d0/a')).toHaveLength(8);
  });

  test('gc waits for a copy, whose instant has what nothing else refers to any more', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const { open, engine, store } = all;
    const d = await makeDirectory(open, 'd');
    await writeFile(open, 'large', LARGE, d);
    const [copying, go] = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
    let still = false;
    const slow: MetaEngine = {
      ...faultyEngine(engine, new FaultPlan()),
      async instant(tag) {
        const instant = await engine.instant(tag);
        still = true;
        return instant;
      },
      async commit(transaction) {
        if (still) {
          copying.resolve(undefined);
          await go.promise;
        }
        return engine.commit(transaction);
      },
    };
    const copy = createSnapshot({ ...all.options, engine: slow }, 'one');
    await copying.promise;
    await open.operations.unlink(caller(), d, 'large');
    await open.close();
    const progress = (phase: string): void => {
      if (phase === 'copies awaited') go.resolve(undefined);
    };
    const report = await collectGarbage({ uploadMs: 0, engine, store, volume: 'lake', clock: later(60_000), progress });
    go.resolve(undefined);
    expect(report).toMatchObject({ deletedObjects: 0 });
    expect(await copy).toMatchObject({ consistent: true });
    const other = await reader(all);
    expect((await contentAt(other, '/.snapshots/one/d/large')).equals(LARGE)).toBe(true);
    await expectSound(all.volume);
  });
}

onBothServices(suite);
