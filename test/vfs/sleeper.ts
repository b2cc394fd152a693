/** A node whose clock jumps by as long as it sleeps, while its session ends. */
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { openVolume } from '../../fs-gateway/open-volume.ts';
import type { OpenVolume, VolumeOptions } from '../../fs-gateway/open-volume.ts';
import { systemClock } from '../../lib/clock.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { openEngine } from '../tools/volume-bench.ts';
import { lookUp } from '../tools/volume-files.ts';

const O_WRONLY = 1;
export const HOUR_MS = 3_600_000;
export const BLOCK = 65_536;
/** Options of the volume: its blocks, and what is kept in the metadata. */
export const SMALL = { blockSize: '64KiB', inlineBytes: '100' };

export interface Sleeper {
  readonly volume: TestVolume;
  readonly open: OpenVolume;
  readonly other: OpenVolume;
  readonly reports: string[];
  /** Sleeps for so long, while the lease of its session runs out. */
  readonly sleep: (ms: number) => Promise<void>;
  /** Stages a write, as of an open handle. */
  readonly write: (name: string, offset: number, data: Buffer, flags?: number) => Promise<bigint>;
}

export async function sleeper(more: Partial<VolumeOptions> = {}, over?: TestVolume): Promise<Sleeper> {
  const volume = over ?? (await testVolume(SMALL));
  const other = await openTestVolume(volume, 'other');
  const engine = await openEngine(volume);
  const awake = new Set((await engine.sessions()).map(({ id }) => id));
  const reports: string[] = [];
  let sleptMs = 0;
  const open = await openVolume(
    {
      metaUrl: volume.metaUrl,
      volume: 'lake',
      cacheDir: join(volume.base, 'cache-sleeper'),
      cacheBytes: 64e6,
      mountpoint: '/nowhere/sleeper',
      ttlMs: 1000,
      ...more,
    },
    { ...systemClock, nowMs: () => Date.now() + sleptMs },
    undefined,
    (message) => reports.push(message),
  );
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> => (closed ??= open.close());
  onTestFinished(close);
  return {
    volume,
    open: { ...open, close },
    other,
    reports,
    async sleep(ms) {
      sleptMs += ms;
      for (const { id, kind } of await engine.sessions())
        if (kind === 'mount' && !awake.has(id)) await engine.endSession(id);
    },
    async write(name, offset, data, flags = O_WRONLY) {
      const { ino } = await lookUp(open, 1n, name);
      const { handle } = await open.operations.open(caller(), ino, flags);
      await open.operations.write(caller(), ino, handle, BigInt(offset), data, flags, false);
      return ino;
    },
  };
}
