import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Quarantine, type Rejected } from '../../agent/quarantine.ts';
import { systemClock } from '../../lib/clock.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { quarantinedIn } from './sources/support.ts';

test.skipIf(!isRoot)(
  'what a full disk refuses leaves no part of a line behind, and is there whole when there is room (needs root for a disk)',
  async () => {
    const folder = memoryFolder('1m');
    const quarantine = new Quarantine(join(folder, 'quarantine'), systemClock);
    onTestFinished(() => quarantine.close());
    const item = (letter: string, bytes: number): Rejected => ({
      reason: letter,
      position: 'p',
      input: Buffer.alloc(bytes, letter),
    });
    await quarantine.put('s', [item('a', 100)]);
    const filler = join(folder, 'filler');
    expect(() => writeFileSync(filler, Buffer.alloc(2_000_000))).toThrow(/ENOSPC/);
    await expect(quarantine.put('s', [item('b', 60_000)])).rejects.toMatchObject({ code: 'full' });
    rmSync(filler);
    await quarantine.put('s', [item('b', 60_000)]);
    expect(quarantinedIn(folder).map(({ reason, text }) => [reason, text?.length])).toEqual([
      ['a', 100],
      ['b', 60_000],
    ]);
  },
);
