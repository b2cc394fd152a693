import { readdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { SpoolReader } from '../../../agent/spool/spool-reader.ts';
import { systemClock } from '../../../lib/clock.ts';
import { PenstockError } from '../../../lib/errors.ts';
import { openFileLogAt } from '../../../lib/log/file/file-log.ts';
import { valuesOf } from '../log-values.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, readingOf, spoolIn } from '../spool/support.ts';
import { delivered } from './delivered.ts';
import { startUplink } from './start-uplink.ts';
import { HANG_MS } from '../../support/hang.ts';

test.each(['oldestFirst', 'liveFirst'] as const)(
  'a gap that the spool cannot record holds up its topic only, shows in the status, and is passed once its record is on the disk (%s)',
  async (order) => {
    const directory = tempDir();
    const spool = await spoolIn(directory, { segmentBytes: 20_000 });
    const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
    onTestFinished(() => log.close());
    for (let n = 1; n <= 100; n += 1) await spool.append([readingOf(`${n}`.padEnd(1000, '.'))]);
    await spool.append([readingOf('other', 'u')]);
    const third = readdirSync(directory).filter((name) => name.endsWith('.seg'))[2];
    unlinkSync(join(directory, third ?? ''));
    const gap = (await readAll(spool)).find(({ kind }) => kind === 'gap');
    if (gap?.kind !== 'gap') throw new Error('no gap');

    let refused = 0;
    let isFull = true;
    const refusing = new Proxy<SpoolReader>(spool, {
      get: (_target, name: keyof SpoolReader) => {
        if (name !== 'recordGap' || !isFull) return spool[name].bind(spool);
        return () => Promise.reject(new PenstockError('full', `no room for a record (${(refused += 1)})`));
      },
    });
    const uplink = await startUplink(log, refusing, directory, { order });
    onTestFinished(() => uplink.close());
    const before = Number(gap.fromSeq) - 1;
    await expect.poll(() => refused).toBeGreaterThan(3);
    await expect.poll(async () => (await delivered(log, 't')).length).toBe(before);
    await expect.poll(async () => (await delivered(log, 'u')).length).toBe(1);
    expect(uplink.status().lastError?.message).toContain('no room for a record');
    expect(spool.durablyAcknowledged('t')).toBeLessThanOrEqual(BigInt(before));

    isFull = false;
    expect(await uplink.drain(HANG_MS)).toBe(true);
    expect(uplink.status().lastError).toBeNull();
    const seqs = (await delivered(log, 't')).map(({ seq }) => seq).sort((a, b) => a - b);
    const after = Array.from({ length: 100 - Number(gap.toSeq) }, (_, index) => Number(gap.toSeq) + 1 + index);
    expect(seqs).toEqual([...Array.from({ length: before }, (_, index) => index + 1), ...after]);
    expect(await valuesOf(log, 'penstock.gaps')).toEqual([
      expect.objectContaining({ topic: 't', fromSeq: before + 1, toSeq: Number(gap.toSeq) }),
    ]);
  },
);
