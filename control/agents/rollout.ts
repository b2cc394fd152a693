/**
 * A roll-out as a calculation: who is to have the new configuration, how those do, and what follows.
 *
 * An agent's place in a roll-out is a number of 0 to 1 from the hash of both names; the agents up to `reach` have the new configuration.
 * So the record has the same size for one agent and for thousands, and an agent that joins meanwhile has its place.
 * Limits: the error rate is judged from ERRORS_MIN quarantined readings on; an agent that has been away since before the step is not waited for.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { LATE_MS, type Report } from './reports.ts';
import type { Assignment, Group, Owner, Rollout, Step } from './records.ts';

const ERRORS_MIN = 10;
const EVENTS_MAX = 100;

export const MEMBER_STATES = ['waiting', 'settling', 'well', 'refused', 'gone', 'troubled', 'away'] as const;
/**
 * waiting: it has not taken it over; settling: not for soakSeconds yet; troubled: it runs with it and reports a problem of a source or the
 * uplink; gone: silent since the step began; away: silent since before.
 */
export type MemberState = (typeof MEMBER_STATES)[number];

export interface Member {
  readonly id: string;
  /** null: it never reported. */
  readonly report: Report | null;
}

export interface Now {
  readonly ms: number;
  readonly listeningMs: number;
}

export interface Health extends Readonly<Record<MemberState, number>> {
  /** That are to have the new configuration. */
  readonly updated: number;
  /** Of those that report or should: what is not well and not on its way. */
  readonly failingShare: number;
  readonly errorRate: number;
}

/** Of the heartbeat, as far as it is looked at here. Other agents may say anything. */
const statusSchema = z.object({
  config: z
    .object({
      version: z.string().nullable(),
      runningSeconds: z.number(),
      refused: z.object({ version: z.string(), reason: z.string() }).nullable(),
    })
    .nullable()
    .catch(null),
  sources: z.array(z.object({ problem: z.string().nullable() })).catch([]),
  uplinkProblem: z.string().nullable().catch(null),
  uplink: z.object({ heldUp: z.array(z.unknown()) }).catch({ heldUp: [] }),
  spooled: z.number().catch(0),
  quarantined: z.number().catch(0),
});
type Status = z.output<typeof statusSchema>;

export const statusOf = ({ report }: Member): Status => statusSchema.parse(report?.status ?? {});

export const isUnderWay = (rollout: Rollout | null): rollout is Rollout & { readonly state: 'running' | 'stopped' } =>
  rollout !== null && (rollout.state === 'running' || rollout.state === 'stopped');

function placeOf(rolloutId: string, agent: string): number {
  return createHash('sha256').update(`${rolloutId}/${agent}`).digest().readUIntBE(0, 6) / 2 ** 48;
}

/** Whether the agent is to have the new configuration. */
export const isReached = (rollout: Rollout, agent: string): boolean => placeOf(rollout.id, agent) <= rollout.reach;

export interface WantedConfig {
  /** `none` without a configuration. */
  readonly version: string;
  readonly from: 'agent' | 'group' | 'rollout' | 'none';
  readonly group: string | null;
  readonly changedMs: number | null;
  readonly changedBy: string | null;
  /** Whose configuration it is; null: none. */
  readonly owner: Owner | null;
}

/** What an agent is to run with. `group`: the record of its group, null where it has none or that is gone. */
export function wantedOf(agent: string, assignment: Assignment | null, group: Group | null): WantedConfig {
  const own = assignment?.own ?? null;
  const name = group === null ? null : (assignment?.group ?? null);
  if (own !== null) return { ...own, from: 'agent', group: name, owner: `agent:${agent}` };
  const nothing = {
    version: 'none',
    from: 'none',
    group: name,
    changedMs: null,
    changedBy: null,
    owner: null,
  } as const;
  if (group === null || name === null) return nothing;
  const { current, rollout } = group;
  const isNew = isUnderWay(rollout) && isReached(rollout, agent);
  const wanted = isNew ? rollout.to : current;
  if (wanted === null) return nothing;
  return { ...wanted, from: isNew ? 'rollout' : 'group', group: name, owner: `group:${name}` };
}

const isTroubled = ({ sources, uplink, uplinkProblem }: Status): boolean =>
  uplinkProblem !== null || uplink.heldUp.length > 0 || sources.some(({ problem }) => problem !== null);

/** `now.listeningMs`: since when heartbeats could have been taken. What nobody could hear is no silence. */
export function memberState(rollout: Rollout, member: Member, now: Now): MemberState {
  const { report } = member;
  if (report === null) return 'away';
  if (now.ms - report.seenMs > LATE_MS) {
    if (report.seenMs <= rollout.stepMs - LATE_MS) return 'away';
    return now.ms - Math.max(report.seenMs, now.listeningMs) > LATE_MS ? 'gone' : 'waiting';
  }
  const status = statusOf(member);
  if (status.config?.refused?.version === rollout.to.version) return 'refused';
  if (status.config?.version !== rollout.to.version) return 'waiting';
  if (status.config.runningSeconds < rollout.soakSeconds) return 'settling';
  return isTroubled(status) ? 'troubled' : 'well';
}

export function healthOf(rollout: Rollout, members: readonly Member[], now: Now): Health {
  const counts = { waiting: 0, settling: 0, well: 0, refused: 0, gone: 0, troubled: 0, away: 0 };
  const reached = members.filter(({ id }) => isReached(rollout, id));
  const running: Status[] = [];
  for (const member of reached) {
    const state = memberState(rollout, member, now);
    counts[state]++;
    if (state === 'settling' || state === 'well' || state === 'troubled') running.push(statusOf(member));
  }
  const failing = counts.refused + counts.gone + counts.troubled;
  return {
    ...counts,
    updated: reached.length,
    failingShare: failing / Math.max(1, reached.length - counts.away),
    errorRate: errorRateOf(running),
  };
}

function errorRateOf(statuses: readonly Status[]): number {
  const errors = statuses.reduce((sum, { quarantined }) => sum + quarantined, 0);
  const taken = statuses.reduce((sum, { spooled }) => sum + spooled, 0);
  return errors < ERRORS_MIN ? 0 : errors / (errors + taken);
}

/** What the members that report are like before anything changes. */
export function beforeOf(members: readonly Member[], nowMs: number): Rollout['before'] {
  const statuses = reporting(members, nowMs).map(statusOf);
  const troubled = statuses.filter(isTroubled).length;
  return { failingShare: troubled / Math.max(1, statuses.length), errorRate: errorRateOf(statuses) };
}

const reporting = (members: readonly Member[], nowMs: number): Member[] =>
  members.filter(({ report }) => report !== null && nowMs - report.seenMs <= LATE_MS);

/** The step, begun. The same roll-out while no member reports: nobody could be looked at. */
export function beginStep(rollout: Rollout, step: number, members: readonly Member[], nowMs: number): Rollout {
  const places = reporting(members, nowMs)
    .map(({ id }) => placeOf(rollout.id, id))
    .sort((a, b) => a - b);
  const size = rollout.steps[step];
  if (size === undefined || places.length === 0) return rollout;
  const count = 'agents' in size ? size.agents : Math.ceil((size.percent / 100) * places.length);
  const reach = Math.max(rollout.reach, isWhole(size) ? 1 : (places[count - 1] ?? 1));
  const text = `step ${step + 1} of ${rollout.steps.length}: ${isWhole(size) ? 'all' : Math.min(count, places.length)} of ${places.length} agents`;
  return withEvent({ ...rollout, step, reach, stepMs: nowMs }, nowMs, text);
}

export const isWhole = (step: Step): boolean => 'percent' in step && step.percent === 100;

/** What has become of a running roll-out. */
export function advance(rollout: Rollout, members: readonly Member[], now: Now): Rollout {
  const health = healthOf(rollout, members, now);
  const reason = reasonToStop(rollout, health, now.ms);
  if (reason !== null) return stop(rollout, reason, now.ms);
  if (health.waiting + health.settling > 0 || health.updated === health.away) return rollout;
  if (rollout.step < rollout.steps.length - 1) return beginStep(rollout, rollout.step + 1, members, now.ms);
  return withEvent({ ...rollout, state: 'done' }, now.ms, 'done: it is the configuration of the group');
}

export const stop = (rollout: Rollout, reason: string, nowMs: number): Rollout =>
  withEvent({ ...rollout, state: 'stopped', reason }, nowMs, `stopped: ${reason}`);

function reasonToStop(rollout: Rollout, health: Health, nowMs: number): string | null {
  const { before, failingPercentMax, errorRateRiseMax, patienceSeconds, stepMs } = rollout;
  const percent = (share: number): string => `${Math.round(share * 1000) / 10} %`;
  if (health.failingShare > before.failingShare + failingPercentMax / 100) {
    const { refused, gone, troubled, updated, away } = health;
    return `of ${updated - away} updated agents ${refused} refused it, ${gone} fell silent and ${troubled} report a problem (before: ${percent(before.failingShare)})`;
  }
  if (health.errorRate > before.errorRate + errorRateRiseMax) {
    return `${percent(health.errorRate)} of the readings of the updated agents go to the quarantine (before: ${percent(before.errorRate)})`;
  }
  const isOver = nowMs - stepMs > patienceSeconds * 1000;
  const late = health.waiting + health.settling;
  if (isOver && (late > 0 || health.updated === health.away)) {
    return `step ${rollout.step + 1} is not over after ${patienceSeconds} s: ${late} of ${health.updated} agents do not run with it yet, ${health.away} are away`;
  }
  return null;
}

export function withEvent(rollout: Rollout, atMs: number, text: string): Rollout {
  return { ...rollout, events: [...rollout.events, { atMs, text }].slice(-EVENTS_MAX) };
}
