/**
 * What each agent is to run with: its own configuration, or that of its group.
 *
 * Invariants: a change names the version that it was made from (`Precondition`), and is refused when that is no longer what is wanted. A
 * configuration is kept exactly as long as a record names it.
 * Limits: how many agents, config-records.ts; the size of a configuration, records.ts.
 */
import type { Clock } from '../../lib/clock.ts';
import type { Compare, Write } from '../../lib/meta/engine.ts';
import type { ConfigRecords, Read } from './config-records.ts';
import { encode, type AgentSettings, type Assignment } from './records.ts';
import { wantedOf, type WantedConfig } from './rollout.ts';

/** Throws when the version that is wanted at present (null: none) is not what the client thinks. */
export type Precondition = (current: string | null) => void;

export class AgentConfigs {
  readonly #records: ConfigRecords;
  readonly #clock: Clock;

  constructor(records: ConfigRecords, clock: Clock) {
    this.#records = records;
    this.#clock = clock;
  }

  async wanted(agent: string): Promise<WantedConfig> {
    const { value } = await this.#records.assignment(agent);
    const group = value?.group == null ? null : await this.#records.group(value.group);
    return wantedOf(agent, value, group?.value ?? null);
  }

  /** The same of many, by agent. */
  async wantedOfMany(agents: readonly string[]): Promise<ReadonlyMap<string, WantedConfig>> {
    const assignments = await this.#records.assignmentsOf(agents);
    const names = new Set([...assignments.values()].flatMap(({ group }) => group ?? []));
    const groups = await this.#records.groupsOf([...names]);
    return new Map(
      agents.map((agent) => {
        const assignment = assignments.get(agent) ?? null;
        return [agent, wantedOf(agent, assignment, groups.get(assignment?.group ?? '') ?? null)];
      }),
    );
  }

  /** What `wanted` gives, as soon as it is not `known`, after `timeoutMs`, or when the signal fires. */
  async wait(agent: string, known: string, timeoutMs: number, signal: AbortSignal): Promise<WantedConfig> {
    const endMs = this.#clock.monotonicMs() + timeoutMs;
    const answered = new AbortController();
    const until = AbortSignal.any([signal, answered.signal]);
    try {
      for (;;) {
        const leftMs = Math.max(0, endMs - this.#clock.monotonicMs());
        // Before the look, so that a change right behind it is seen.
        const changed = this.#records.watch.next(leftMs, until);
        const wanted = await this.wanted(agent);
        if (wanted.version !== known || leftMs === 0 || signal.aborted) return wanted;
        await changed;
      }
    } finally {
      answered.abort();
    }
  }

  /** null takes the agent's own away again. Throws `config` for one that is not valid, and what `precondition` throws. */
  async setOwn(agent: string, config: AgentSettings | null, by: string, precondition: Precondition): Promise<void> {
    const encoded = config === null ? null : this.#records.check(config);
    await this.#records.change(async () => {
      const read = await this.#records.assignment(agent);
      const before: Assignment = read.value ?? { group: null, own: null };
      // What is shown to whoever edits may be the group's.
      const group = before.group === null ? null : await this.#records.group(before.group);
      const { owner, version } = wantedOf(agent, before, group?.value ?? null);
      precondition(owner === null ? null : version);
      const own = encoded === null ? null : { version: encoded.version, changedMs: this.#clock.nowMs(), changedBy: by };
      return {
        compare: [read.unchanged, ...(group === null ? [] : [group.unchanged])],
        write: [
          await assignmentWrite(this.#records, agent, read, { ...before, own }),
          ...this.#records.configWrites(`agent:${agent}`, [before.own], [own], encoded),
        ],
      };
    });
  }

  /** Its own configuration and its place in its group go in the one commit with what `beside` says, which is asked again while others change something. Throws what that throws. */
  async forget(
    agent: string,
    beside: () => Promise<{ readonly compare: readonly Compare[]; readonly write: readonly Write[] }>,
  ): Promise<void> {
    await this.#records.change(async () => {
      const { compare, write } = await beside();
      const { value, unchanged } = await this.#records.assignment(agent);
      const { sizes, assignments } = this.#records.names;
      return {
        compare: [...compare, unchanged],
        write: [
          ...write,
          { key: { bucket: assignments, field: agent }, value: null },
          ...this.#records.configWrites(`agent:${agent}`, [value?.own ?? null], [], null),
        ],
        patch: value?.group == null ? [] : [{ number: { bucket: sizes, field: value.group }, add: -1n }],
      };
    });
  }
}

/** Throws `full`. */
export async function assignmentWrite(
  records: ConfigRecords,
  agent: string,
  before: Read<Assignment>,
  after: Assignment,
): Promise<{ readonly key: { readonly bucket: string; readonly field: string }; readonly value: Buffer | null }> {
  if (before.value === null) await records.assertRoomFor(agent);
  const key = { bucket: records.names.assignments, field: agent };
  return { key, value: after.group === null && after.own === null ? null : encode(after) };
}
