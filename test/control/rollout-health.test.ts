import { expect, test } from 'vitest';
import { advance, healthOf, isReached, type Member } from '../../control/agents/rollout.ts';
import type { Rollout } from '../../control/agents/records.ts';

const NOW = 1_700_000_000_000;
const TO = { version: 'new', changedMs: NOW, changedBy: 'a' };

const rolloutOf = (more: Partial<Rollout> = {}): Rollout => ({
  id: 'r',
  state: 'running',
  from: null,
  to: TO,
  steps: [{ percent: 50 }, { percent: 100 }],
  step: 1,
  reach: 1,
  soakSeconds: 60,
  patienceSeconds: 900,
  failingPercentMax: 5,
  errorRateRiseMax: 0.01,
  before: { failingShare: 0, errorRate: 0 },
  stepMs: NOW - 300_000,
  reason: null,
  events: [],
  ...more,
});

function memberOf(
  id: string,
  seenAgoMs: number,
  config: object | null = { version: 'new', runningSeconds: 100, refused: null },
): Member {
  const seenMs = NOW - seenAgoMs;
  return { id, report: { seenMs, firstSeenMs: 0, address: '', status: { config, sources: [], uplinkProblem: null } } };
}

test('silence counts from when it could be heard: gone, away, or not known yet', () => {
  const members = [
    memberOf('well', 5000),
    memberOf('gone', 120_000),
    memberOf('away', 500_000),
    { id: 'never', report: null },
    memberOf('old', 5000, null),
    memberOf('settling', 5000, { version: 'new', runningSeconds: 59, refused: null }),
    memberOf('refused', 5000, { version: 'x', runningSeconds: 1, refused: { version: 'new', reason: 'no' } }),
  ];
  const heard = healthOf(rolloutOf(), members, { ms: NOW, listeningMs: NOW - 3_600_000 });
  expect(heard).toMatchObject({
    updated: 7,
    well: 1,
    gone: 1,
    away: 2,
    waiting: 1,
    settling: 1,
    refused: 1,
    troubled: 0,
  });
  expect(heard.failingShare).toBe(2 / 5);
  // A server that has just started heard nobody before.
  expect(healthOf(rolloutOf(), members, { ms: NOW, listeningMs: NOW - 10_000 })).toMatchObject({ gone: 0, waiting: 2 });
});

test('a few that fail are borne, more stop it; what failed before is not held against it', () => {
  const members = Array.from({ length: 40 }, (_, index) => memberOf(`m${index}`, 5000));
  const withGone = (count: number): Member[] => [
    ...members.slice(count),
    ...members.slice(0, count).map(({ id }) => memberOf(id, 120_000)),
  ];
  const now = { ms: NOW, listeningMs: 0 };
  expect(advance(rolloutOf(), withGone(2), now).state).toBe('done');
  expect(advance(rolloutOf(), withGone(3), now)).toMatchObject({
    state: 'stopped',
    reason: expect.stringContaining('3 fell silent') as string,
  });
  const before = { failingShare: 0.1, errorRate: 0 };
  expect(advance(rolloutOf({ before }), withGone(3), now).state).toBe('done');
});

test('places are spread evenly, differ between roll-outs, and do not move when agents come', () => {
  const ids = Array.from({ length: 2000 }, (_, index) => `edge-${index}`);
  const reachedOf = (id: string): string[] => ids.filter((agent) => isReached(rolloutOf({ id, reach: 0.1 }), agent));
  const first = reachedOf('a');
  expect(first.length).toBeGreaterThan(140);
  expect(first.length).toBeLessThan(260);
  expect(new Set(first).intersection(new Set(reachedOf('b'))).size).toBeLessThan(60);
});
