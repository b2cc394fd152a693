/** Agents and their groups as one tenant (or the platform) may see them. */
import type { AgentConfigs } from '../agents/agent-configs.ts';
import type { ConfigRecords } from '../agents/config-records.ts';
import type { AgentGroups } from '../agents/groups.ts';
import type { Group } from '../agents/records.ts';
import { LATE_MS, type Report, type Reports } from '../agents/reports.ts';
import type { WantedConfig } from '../agents/rollout.ts';
import type { RolloutLook, Rollouts } from '../agents/rollouts.ts';
import type { ControlContext } from '../context.ts';
import { PenstockError } from '../../lib/errors.ts';

/** How long a count of those that are late serves while nothing is heard of any. */
const COUNT_MS = 1000;

export interface Agents {
  /** In their order. */
  readonly ids: readonly string[];
  /** By id, also of agents that are none of these. */
  readonly reports: ReadonlyMap<string, Report>;
}

export interface AgentCounts {
  readonly total: number;
  readonly late: number;
}

export class FleetScope {
  /** These three take a name of the path, which is the tenant's own (auth/tenants.ts). */
  readonly configs: Omit<AgentConfigs, 'wait'>;
  readonly groups: Omit<AgentGroups, 'sizes'>;
  readonly rollouts: Pick<Rollouts, 'begin' | 'act'>;
  readonly configOf: ConfigRecords['config'];
  readonly #context: ControlContext;
  readonly #tenant: string | null;
  readonly #owns: (name: string) => boolean;
  #agents: Agents = { ids: [], reports: new Map() };
  /** Of one reading reports are added to and never taken out, so their number tells whether the ids are the same. */
  #reportsSeen = 0;
  #counted: (AgentCounts & { readonly changes: number; readonly atMs: number }) | undefined;

  constructor(context: ControlContext, tenant: string | null) {
    this.#context = context;
    this.#tenant = tenant;
    this.#owns = (name) => tenant === null || context.tenants.ownerOf(name) === tenant;
    this.configs = context.agentConfigs;
    this.groups = context.agentGroups;
    this.rollouts = context.rollouts;
    this.configOf = (owner, version) => context.configRecords.config(owner, version);
  }

  /** As `AgentConfigs.wait`. Throws `unavailable` when too many are waiting. */
  async waitForConfig(...asked: Parameters<AgentConfigs['wait']>): Promise<WantedConfig> {
    const { held, agentConfigs } = this.#context;
    if (!held.take(this.#tenant)) throw new PenstockError('unavailable', 'too many requests wait for a change');
    try {
      return await agentConfigs.wait(...asked);
    } finally {
      held.give(this.#tenant);
    }
  }

  async agents(): Promise<Agents> {
    const reports = await this.#context.agentReports.all();
    if (reports !== this.#agents.reports || reports.size !== this.#reportsSeen) {
      this.#agents = { ids: [...reports.keys()].filter(this.#owns).sort(), reports };
      this.#reportsSeen = reports.size;
    }
    return this.#agents;
  }

  async agentCounts(): Promise<AgentCounts> {
    const { agentReports, clock } = this.#context;
    const { ids, reports } = await this.agents();
    const [{ changes }, atMs] = [agentReports, clock.nowMs()];
    if (this.#counted?.changes !== changes || Math.abs(atMs - this.#counted.atMs) >= COUNT_MS) {
      const late = ids.filter((id) => atMs - (reports.get(id)?.seenMs ?? 0) > LATE_MS).length;
      this.#counted = { total: ids.length, late, changes, atMs };
    }
    return this.#counted;
  }

  async saveHeartbeat(...said: Parameters<Reports['save']>): Promise<void> {
    await this.#context.agentReports.save(...said);
  }

  /** An agent that is no more: what it said, its own configuration, and its place in its group, all or nothing. Throws `not-found`; `conflict` while it reports. */
  async forget(agent: string): Promise<void> {
    const { agentReports } = this.#context;
    await this.configs.forget(agent, () => agentReports.removalOfLate(agent));
    agentReports.forget();
  }

  /** By name. */
  async allGroups(): Promise<ReadonlyMap<string, Group>> {
    return this.#own(await this.#context.configRecords.groups());
  }

  /** Members by group. */
  async sizes(): Promise<ReadonlyMap<string, number>> {
    return this.#own(await this.#context.agentGroups.sizes());
  }

  async look(group: string): Promise<RolloutLook> {
    const look = await this.#context.rollouts.look(group);
    // A tenant that was configured later may have a group with members of before.
    return { ...look, members: look.members.filter(({ id }) => this.#owns(id)) };
  }

  #own<T>(byName: ReadonlyMap<string, T>): ReadonlyMap<string, T> {
    return new Map([...byName].filter(([name]) => this.#owns(name)));
  }
}
