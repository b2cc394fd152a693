import { expect, onTestFinished, test } from 'vitest';
import { Reports } from '../../fs-gateway/reports.ts';
import type { MountReport, WorkloadUsage } from '../../lib/volume/mount-reports.ts';
import { mountReportSchema } from '../../lib/volume/mount-reports.ts';
import { until } from '../support/mount-guard.ts';

function workload(id: string, n: number): WorkloadUsage {
  const counts = { requests: n, errors: 0, reads: n, readsWaited: 0, writes: 0, waitSeconds: n / 1000 };
  const bytes = { readBytes: 100 * n, writtenBytes: 0, kernelReadBytes: 10 * n, kernelWrittenBytes: 0 };
  return { kind: 'command', id, name: null, ...counts, ...bytes, diskReadBytes: n, diskWrittenBytes: null };
}

test('a mount reports rates while it is used, once more when it comes to rest, and is bounded', async () => {
  let [nowMs, requests, idle, looks] = [1000, 50, false, 0];
  const saved: MountReport[] = [];
  const reports = new Reports({
    isIdle() {
      looks++;
      return idle;
    },
    usage: () =>
      Promise.resolve({
        workloads: Array.from({ length: 30 }, (_, n) => workload(`w${n}`, requests)),
        files: Array.from({ length: 20 }, (_, ino) => ({ ino, path: null, readBytes: 1, writtenBytes: 0 })),
      }),
    stats: () => ({ volume: 'lake', fetchedBytes: 7 }),
    save(report) {
      saved.push(report);
      nowMs += 10_000;
      if (saved.length === 1) requests += 100;
      if (saved.length === 2) idle = true;
      // One that is lost does not end it.
      return saved.length === 1 ? Promise.reject(new Error('the engine is away')) : Promise.resolve();
    },
    clock: { nowMs: () => nowMs, monotonicMs: () => nowMs },
    everyMs: 1,
  });
  onTestFinished(() => reports.close());
  await until('it is at rest', () => saved.length >= 3);
  const looksBefore = looks;
  await until('it looked again', () => looks > looksBefore + 3);
  expect(saved).toHaveLength(3);
  const [, second, third] = saved.map((report) => mountReportSchema.parse(JSON.parse(JSON.stringify(report))));
  expect(second).toMatchObject({ fetchedBytes: 7, uploadedBytes: 0 });
  expect([second?.workloads.length, second?.files.length]).toEqual([20, 10]);
  // 100 requests in 10 s, what the kernel read by itself included.
  expect(second?.workloads[0]?.perSecond).toEqual({
    requests: 10,
    readBytes: 1100,
    writtenBytes: 0,
    waitSeconds: expect.closeTo(0.01) as number, // a matcher
  });
  const other = { id: 'other', kind: 'none', requests: 11 * 150, diskReadBytes: 11 * 150, diskWrittenBytes: null };
  expect(second?.workloads[19]).toMatchObject({ ...other, perSecond: { requests: 110 } });
  expect(third?.workloads[0]?.perSecond.requests).toBe(0);
});
