/**
 * Groups of agents that are to run with one configuration. An agent is in one group at most.
 *
 * Invariants: while a roll-out is under way nothing but it changes what its group is to have; a group with members is not deleted.
 * Limits: GROUPS_MAX groups, of one tenant its share of them (kept-share.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import type { Tenants } from '../auth/tenants.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { Minitransaction } from '../../lib/meta/engine.ts';
import { counted } from '../../lib/units.ts';
import { assignmentWrite, type Precondition } from './agent-configs.ts';
import { KeptShare } from '../kept-share.ts';
import type { ConfigRecords } from './config-records.ts';
import { encode, type AgentSettings, type EncodedConfig, type Group, type Wanted } from './records.ts';
import { isUnderWay } from './rollout.ts';

const GROUPS_MAX = 1000;

interface GroupChange {
  /** null: deleted. */
  readonly after: Group | null;
  /** A configuration that is new. */
  readonly encoded?: EncodedConfig;
  readonly extra?: Minitransaction;
}

export class AgentGroups {
  readonly #records: ConfigRecords;
  readonly #tenants: Tenants;
  readonly #room: KeptShare;
  readonly #clock: Clock;

  constructor(records: ConfigRecords, tenants: Tenants, clock: Clock) {
    this.#records = records;
    this.#tenants = tenants;
    this.#room = new KeptShare({ what: 'groups', remedy: 'delete some', total: GROUPS_MAX, tenants });
    this.#clock = clock;
  }

  /** Throws `not-found`. */
  async get(name: string): Promise<Group> {
    const { value } = await this.#records.group(name);
    if (value === null) throw noGroup(name);
    return value;
  }

  /** Members of all groups, by group. */
  async sizes(): Promise<ReadonlyMap<string, number>> {
    const numbers = await this.#records.engine.numbers(this.#records.names.sizes);
    return new Map(numbers.map(([name, size]) => [name, Number(size)]));
  }

  /** The same again changes nothing. Throws `full`. */
  async create(name: string): Promise<void> {
    const { engine, names } = this.#records;
    await this.#records.change(async () => {
      const { value, unchanged } = await this.#records.group(name);
      if (value !== null) return null;
      await this.#room.assertRoom(engine, names.groups, this.#tenants.ownerOf(name));
      const empty: Group = { current: null, rollout: null };
      return { compare: [unchanged], write: [{ key: this.#records.groupKey(name), value: encode(empty) }] };
    });
  }

  /** Throws `not-found`, and `conflict` while it has members. */
  async delete(name: string): Promise<void> {
    const size = { bucket: this.#records.names.sizes, field: name };
    await this.change(name, async (before) => {
      refuseUnderWay(name, before);
      const [members] = await this.#records.engine.readNumbers([size]);
      if ((members ?? 0n) > 0n) throw refusal(`${name} has ${counted(members ?? 0n, 'agent')}: take them out first`);
      return {
        after: null,
        extra: { compare: [{ number: size, atMost: 0n }], patch: [{ number: size, remove: true }] },
      };
    });
  }

  /** Takes the agent in, or out; what is so already is no error. Throws `not-found`; `conflict` when it is in another group, or of another tenant. */
  async setMember(name: string, agent: string, isMember: boolean): Promise<void> {
    const [owner, other] = [this.#tenants.ownerOf(name), this.#tenants.ownerOf(agent)];
    if (isMember && owner !== other) {
      const whose = (tenant: string | null): string => (tenant === null ? 'the platform' : `tenant ${tenant}`);
      throw refusal(`${name} is of ${whose(owner)} and ${agent} of ${whose(other)}`);
    }
    await this.#records.change(async () => {
      const group = await this.#records.group(name);
      if (group.value === null) throw noGroup(name);
      const read = await this.#records.assignment(agent);
      const before = read.value ?? { group: null, own: null };
      if (isMember && before.group !== null && before.group !== name) {
        throw refusal(`${agent} is in group ${before.group}: take it out there first`);
      }
      if ((before.group === name) === isMember) return null;
      const after = { ...before, group: isMember ? name : null };
      return {
        compare: [read.unchanged, group.unchanged],
        write: [await assignmentWrite(this.#records, agent, read, after)],
        patch: [{ number: { bucket: this.#records.names.sizes, field: name }, add: isMember ? 1n : -1n }],
      };
    });
  }

  /** For all members at once. Throws `not-found`, `config`, and `conflict` while a roll-out is under way. */
  async setConfig(name: string, config: AgentSettings, by: string, precondition: Precondition): Promise<void> {
    const encoded = this.#records.check(config);
    await this.change(name, async (before) => {
      refuseUnderWay(name, before);
      precondition(before.current?.version ?? null);
      const current = { version: encoded.version, changedMs: this.#clock.nowMs(), changedBy: by };
      return { after: { ...before, current }, encoded };
    });
  }

  /** Makes of a group what `decide` says (null: nothing); which configurations are kept follows from it. Throws `not-found`. */
  async change(name: string, decide: (before: Group) => Promise<GroupChange | null>): Promise<void> {
    await this.#records.change(async () => {
      const { value: before, unchanged } = await this.#records.group(name);
      if (before === null) throw noGroup(name);
      const made = await decide(before);
      if (made === null) return null;
      const { after, encoded = null, extra } = made;
      const needed = after === null ? [] : neededBy(after);
      return {
        compare: [unchanged, ...(extra?.compare ?? [])],
        write: [
          { key: this.#records.groupKey(name), value: after === null ? null : encode(after) },
          ...this.#records.configWrites(`group:${name}`, neededBy(before), needed, encoded),
        ],
        patch: extra?.patch ?? [],
      };
    });
  }
}

/** The configurations that a group's record stands for. After the end of a roll-out the one before is kept for a roll-back. */
function neededBy({ current, rollout }: Group): (Wanted | null)[] {
  if (isUnderWay(rollout)) return [current, rollout.from, rollout.to];
  return canRollBack({ current, rollout }) ? [current, rollout?.from ?? null] : [current];
}

/** Whether the last roll-out is what the group has. */
export const canRollBack = ({ current, rollout }: Group): boolean =>
  rollout?.state === 'done' && current?.version === rollout.to.version;

export function refuseUnderWay(name: string, { rollout }: Group): void {
  if (isUnderWay(rollout)) throw refusal(`a roll-out to ${name} is under way: let it end, or abort it`);
}

/** Trying again changes nothing. */
export const refusal = (message: string): PenstockError => new PenstockError('conflict', message, { retryable: false });

const noGroup = (name: string): PenstockError =>
  new PenstockError('not-found', `there is no group ${name}: create it first`);
