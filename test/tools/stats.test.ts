/** `penstock fs stats` as people and scripts see it. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { drawRates } from '../../bin/commands/fs-stats.ts';
import type { MountStats, WorkerStats } from '../../fs-gateway/fuse/mount-stats.ts';
import { mountTestVolume } from '../support/fs-volume.ts';
import { run, shell, start, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

const PENSTOCK = join(import.meta.dirname, '../../bin/penstock');

describe.skipIf(cannotMount())('fs stats', () => {
  test('is a table of operations for people, the counters for scripts, and with --watch again every second', async () => {
    const mount = await mountTestVolume();
    await shell('for i in 1 2 3; do echo text > "$1/f$i"; done; ls "$1/none" 2> /dev/null || true', mount.mountpoint);
    const { status, stdout } = await run(PENSTOCK, ['fs', 'stats', mount.mountpoint]);
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /^\S+ {2}serving for .* worker \d+, .* MB, 0 restarts {3}\d+ in flight\nvolume lake {3}0 B cached /,
    );
    expect(stdout).toMatch(/\ncreate +3 +0 +[\d.]+ [um]s +[\d.]+ [um]?s +\d+ %\n/);
    const json = await run(PENSTOCK, ['fs', 'stats', mount.mountpoint, '--json']);
    expect(JSON.parse(json.stdout)).toMatchObject({
      state: 'serving',
      worker: { operations: { create: { count: 3 } } },
    });

    const { child, finished } = start(PENSTOCK, ['fs', 'stats', mount.mountpoint, '--watch', '--json']);
    let said = '';
    child.stdout?.on('data', (text: string) => (said += text));
    await until('it has looked twice', () => said.split('\n').length > 2 || child.exitCode !== null);
    child.kill('SIGTERM');
    expect(await finished).toMatchObject({ status: 0, stderr: '' });
    expect(JSON.parse(said.split('\n')[1] ?? '')).toMatchObject({ worker: { operations: { create: { count: 3 } } } });
  });
});

/** A worker that has answered so many reads in 60 us each, and fetched so many bytes. */
function stats(pid: number, reads: number, fetchedBytes: number): MountStats {
  const buckets = [0, 0, 0, reads, 0];
  const worker: WorkerStats = {
    pid,
    inFlight: 2,
    memoryBytes: 150e6,
    operations: { read: { count: reads, errors: 1, totalUs: reads * 60, buckets } },
    notifications: { written: 0, pending: 0, overflows: 0, epochs: 0 },
    volume: { volume: 'lake', stagedFiles: 1, stagedBytes: 5000, cachedBytes: 2e9, fetchedBytes },
  };
  const supervisor = { state: 'serving', supervisorPid: 1, generation: 0, restarts: 0, passthrough: false } as const;
  return { ...supervisor, mountpoint: '/mnt', workerPid: pid, uptimeMs: 300_000, worker };
}

test('what is watched are rates, also behind a worker that began anew, and a mount without a worker says so', () => {
  const before = { value: stats(7, 1000, 10e6), atMs: 0 };
  const lines = drawRates(before, { value: stats(7, 3000, 30e6), atMs: 2000 }).split('\n');
  expect(lines[0]).toBe('/mnt  serving for 5 min   worker 7, 150.0 MB, 0 restarts   2 in flight');
  expect(lines[1]).toBe('volume lake   2.0 GB cached   1 file, 5.0 kB staged   from the store 10.0 MB/s');
  expect(lines.find((line) => line.startsWith('read'))?.split(/ {2,}/)).toEqual([
    'read',
    '1,000',
    '0',
    '60 us',
    '100 us',
    '100 %',
  ]);
  // Its successor has answered 50 in that second.
  const anew = drawRates(before, { value: stats(8, 50, 0), atMs: 1000 });
  expect(anew).toMatch(/\nread +50 +1 +60 us/);
  expect(anew).toContain('from the store 0 B/s');
  const gone = { ...stats(8, 50, 0), state: 'restarting', workerPid: null, worker: { error: 'it has ended' } } as const;
  expect(drawRates(before, { value: gone, atMs: 1000 })).toMatch(/restarting: it has ended .* worker none, 0 restarts/);
});
