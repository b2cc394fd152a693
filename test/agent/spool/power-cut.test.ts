/** What a start takes for stored is on the disk, whatever became of the process before it and of its sync. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openSpool, type Spool } from '../../../agent/spool/spool.ts';
import { isRoot, LoopDisk, memoryFolder } from '../../support/loop-disk.ts';
import { contentOf, readAll, readingOf } from './support.ts';

const open = (dir: string): Promise<Spool> => openSpool({ dir, agent: 'a', maxBytes: 1e9, whenFull: 'reject' });

/** What the spool of a disk holds after a power cut: its readings, with gaps as numbers, and the checkpoint. */
async function afterPowerCut(disk: LoopDisk): Promise<unknown> {
  const spool = await open(join(disk.afterPowerCut().mountpoint, 'spool'));
  const content = contentOf(await readAll(spool)).map((value) =>
    typeof value === 'string' ? value.slice(0, 5) : value,
  );
  await spool.close();
  return [content, spool.checkpoint('s')];
}

test.skipIf(!isRoot)(
  'a group that was written and not synced when the process was killed is on the disk once the next start has it (needs root for a disk)',
  async () => {
    const disk = LoopDisk.make(memoryFolder('64m'));
    const dir = join(disk.mountpoint, 'spool');
    const child = spawn(process.execPath, [join(import.meta.dirname, 'unsynced-child.ts'), dir], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    child.kill('SIGKILL');
    await once(child, 'close');
    const spool = await open(dir);
    expect(contentOf(await readAll(spool))).toEqual(['one', 'two']);
    expect(spool.checkpoint('s')).toBe('two');
    await spool.append([readingOf('three')], [{ source: 's', state: 'three' }]);
    expect(await afterPowerCut(disk)).toEqual([['one', 'two', 'three'], 'three']);
    await spool.close();
  },
);

test.skipIf(!isRoot)(
  'after a sync that failed nothing is taken for stored that a later sync has not written (needs root for a disk)',
  async () => {
    const folder = memoryFolder('12m');
    const disk = LoopDisk.make(folder);
    disk.fillJournal();
    const dir = join(disk.mountpoint, 'spool');
    const large = Array.from('abcd', (letter) => letter.repeat(900_000));
    const spool = await open(dir);
    await spool.append([readingOf('one')], [{ source: 's', state: 'one' }]);
    // The disk has no good block left: what is written now fails at its sync.
    const filler = join(folder, 'filler');
    expect(() => writeFileSync(filler, Buffer.alloc(16 * 2 ** 20))).toThrow(/ENOSPC/);
    const failed = spool.append(
      large.map((value) => readingOf(value)),
      [{ source: 's', state: 'two' }],
    );
    await expect(failed).rejects.toMatchObject({
      code: 'io',
      message: expect.stringContaining('cannot sync') as string,
    });
    await expect(spool.append([readingOf('three')])).rejects.toMatchObject({ code: 'io' });
    expect(spool.failure?.code).toBe('io');
    await spool.close();
    // As long as it is so, no start takes the group for stored.
    await expect(open(dir)).rejects.toThrow('cannot open the spool');
    rmSync(filler);
    const again = await open(dir);
    expect(contentOf(await readAll(again))).toEqual(['one', ...large]);
    await again.append([readingOf('four')], [{ source: 's', state: 'four' }]);
    expect(await afterPowerCut(disk)).toEqual([['one', 'aaaaa', 'bbbbb', 'ccccc', 'ddddd', 'four'], 'four']);
    await again.close();
  },
);
