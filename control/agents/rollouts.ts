/**
 * Roll-outs to groups: begun, steered by people, and driven from step to step by whichever server looks first.
 *
 * Invariants: a roll-out is one record of the engine and changes by compare only, so servers that look at once, or are killed at any moment, make
 * each step once. What it may do next follows from the record and the heartbeats alone.
 * Failure: while the engine is away nothing moves; silence of agents counts only from when heartbeats can be taken again.
 * Limits: one roll-out to a group at a time; looks take a LOAD_SHARE-th of the time, and are REST_MS_MAX apart at most.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import type { Connections } from '../connections.ts';
import type { ConfigRecords } from './config-records.ts';
import { canRollBack, refusal, refuseUnderWay, type AgentGroups } from './groups.ts';
import type { AgentSettings, Group, Rollout } from './records.ts';
import { readReports } from './reports.ts';
import {
  advance,
  beforeOf,
  beginStep,
  healthOf,
  isReached,
  isUnderWay,
  memberState,
  statusOf,
  stop,
  withEvent,
  type Health,
  type Member,
  type MemberState,
} from './rollout.ts';

const LOOK_EVERY_MS = 1000;
/** Of thousands of agents: what they say is read whole. */
const LOAD_SHARE = 20;
const REST_MS_MAX = 15_000;

export type RolloutPlan = Pick<
  Rollout,
  'steps' | 'soakSeconds' | 'patienceSeconds' | 'failingPercentMax' | 'errorRateRiseMax'
>;
export const ACTS = ['stop', 'resume', 'abort', 'roll-back'] as const;
export type Act = (typeof ACTS)[number];

export interface RolloutLook {
  readonly rollout: Rollout | null;
  /** null when no roll-out is under way. */
  readonly health: Health | null;
  readonly members: readonly {
    readonly id: string;
    /** null: it never reported. */
    readonly seenMs: number | null;
    /** What it says that it runs with; null: its agent.yaml. */
    readonly version: string | null;
    readonly updated: boolean;
    /** null: it is not updated. */
    readonly state: MemberState | null;
    readonly refused: string | null;
  }[];
}

export class Rollouts {
  readonly #records: ConfigRecords;
  readonly #groups: AgentGroups;
  readonly #connections: Connections;
  readonly #clock: Clock;
  readonly #end = new AbortController();
  /** Since when every look succeeded, wall clock. */
  #listeningMs: number;
  #driving: Promise<void> | undefined;

  constructor(records: ConfigRecords, groups: AgentGroups, connections: Connections, clock: Clock) {
    this.#records = records;
    this.#groups = groups;
    this.#connections = connections;
    this.#clock = clock;
    this.#listeningMs = clock.nowMs();
  }

  start(): void {
    this.#driving ??= this.#drive();
  }

  async close(): Promise<void> {
    this.#end.abort();
    await this.#driving;
  }

  /** The version that is rolled out; the same `id` again begins nothing. Throws `not-found`; `config` for a configuration that is not valid; `conflict`. */
  async begin(
    name: string,
    config: AgentSettings,
    plan: RolloutPlan,
    { id, by }: { readonly id: string; readonly by: string },
  ): Promise<string> {
    const encoded = this.#records.check(config);
    const members = await this.#members(name);
    await this.#groups.change(name, async (before) => {
      // A repeat of the request that began it.
      if (before.rollout?.id === id && before.rollout.to.version === encoded.version) return null;
      refuseUnderWay(name, before);
      if (before.current?.version === encoded.version) throw refusal(`${name} has this configuration already`);
      const nowMs = this.#clock.nowMs();
      const rollout: Rollout = {
        ...plan,
        id,
        state: 'running',
        from: before.current,
        to: { version: encoded.version, changedMs: nowMs, changedBy: by },
        step: 0,
        reach: 0,
        before: beforeOf(members, nowMs),
        stepMs: nowMs,
        reason: null,
        events: [{ atMs: nowMs, text: `begun by ${by}` }],
      };
      const begun = beginStep(rollout, 0, members, nowMs);
      if (begun === rollout) throw refusal(`no agent of ${name} reports: nobody could see how it does`);
      return { after: { ...before, rollout: begun }, encoded };
    });
    return encoded.version;
  }

  /** Throws `not-found`, and `conflict` when it cannot be done at present. */
  async act(name: string, act: Act, by: string): Promise<void> {
    const members = await this.#members(name);
    await this.#groups.change(name, async (before) => {
      const nowMs = this.#clock.nowMs();
      const after = this.#after(name, before, act, by, members, nowMs);
      return { after };
    });
  }

  #after(name: string, before: Group, act: Act, by: string, members: readonly Member[], nowMs: number): Group {
    const { rollout } = before;
    if (rollout === null) throw refusal(`there was no roll-out to ${name}`);
    const { state } = rollout;
    switch (act) {
      case 'stop':
        if (state !== 'running') break;
        return { ...before, rollout: stop(rollout, `by ${by}`, nowMs) };
      case 'resume': {
        if (state !== 'stopped') break;
        // Whoever resumes has seen what fails and goes on with it.
        const { failingShare, errorRate } = this.#health(rollout, members, nowMs);
        const bar = {
          failingShare: Math.max(rollout.before.failingShare, failingShare),
          errorRate: Math.max(rollout.before.errorRate, errorRate),
        };
        const resumed: Rollout = { ...rollout, state: 'running', reason: null, before: bar, stepMs: nowMs };
        return { ...before, rollout: withEvent(resumed, nowMs, `resumed by ${by}`) };
      }
      case 'abort': {
        if (!isUnderWay(rollout)) break;
        const aborted: Rollout = { ...rollout, state: 'aborted' };
        return { ...before, rollout: withEvent(aborted, nowMs, `aborted by ${by}: all go back to the one before`) };
      }
      case 'roll-back': {
        if (!canRollBack(before)) break;
        const back: Rollout = { ...rollout, state: 'rolled-back' };
        return { current: rollout.from, rollout: withEvent(back, nowMs, `rolled back by ${by}`) };
      }
    }
    throw refusal(
      `${act} is not for a roll-out that is ${state}${state === 'done' ? ', or was followed by another configuration' : ''}`,
    );
  }

  /** The roll-out under way or the last one, and how the members do that run with what the group has. Throws `not-found`. */
  async look(name: string): Promise<RolloutLook> {
    const { rollout } = await this.#groups.get(name);
    const members = await this.#members(name);
    const now = { ms: this.#clock.nowMs(), listeningMs: this.#listeningMs };
    const active = isUnderWay(rollout) ? rollout : null;
    return {
      rollout,
      health: active === null ? null : healthOf(active, members, now),
      members: members.map((member) => {
        const { config } = statusOf(member);
        const updated = active !== null && isReached(active, member.id);
        return {
          id: member.id,
          seenMs: member.report?.seenMs ?? null,
          version: config?.version ?? null,
          updated,
          state: updated ? memberState(active, member, now) : null,
          refused: config?.refused?.reason ?? null,
        };
      }),
    };
  }

  #health(rollout: Rollout, members: readonly Member[], nowMs: number): Health {
    return healthOf(rollout, members, { ms: nowMs, listeningMs: this.#listeningMs });
  }

  /** By id; those with a configuration of their own take no part. */
  async #members(name: string): Promise<Member[]> {
    const reports = await readReports(this.#records.engine, this.#connections.volume);
    const assignments = await this.#records.assignments();
    return [...assignments]
      .filter(([, { group, own }]) => group === name && own === null)
      .map(([id]) => ({ id, report: reports.get(id) ?? null }))
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  async #drive(): Promise<void> {
    const { signal } = this.#end;
    while (!signal.aborted) {
      const beganMs = this.#clock.monotonicMs();
      let restMs = LOOK_EVERY_MS;
      try {
        for (const [name, { rollout }] of await this.#records.groups()) {
          if (rollout?.state === 'running') await this.#step(name);
        }
        restMs = Math.max(LOOK_EVERY_MS, Math.min(REST_MS_MAX, LOAD_SHARE * (this.#clock.monotonicMs() - beganMs)));
      } catch {
        // Another server was first, or the engine is away: the records decide at the next look.
        this.#listeningMs = this.#clock.nowMs();
      }
      await delay(restMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #step(name: string): Promise<void> {
    const members = await this.#members(name);
    await this.#groups.change(name, async (before) => {
      const { rollout } = before;
      if (rollout?.state !== 'running') return null;
      const after = advance(rollout, members, { ms: this.#clock.nowMs(), listeningMs: this.#listeningMs });
      if (after === rollout) return null;
      return { after: { current: after.state === 'done' ? after.to : before.current, rollout: after } };
    });
  }
}
