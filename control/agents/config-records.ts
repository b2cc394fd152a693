/**
 * Reading and changing the records of records.ts, and the configurations that they name.
 *
 * Limits: ASSIGNMENTS_MAX agents with a group or a configuration of their own, of one tenant its share of them (kept-share.ts).
 */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { KeyProblem } from '../../lib/config/issues.ts';
import { PenstockError } from '../../lib/errors.ts';
import { scanJson } from '../../lib/lake/scan.ts';
import type { Compare, Key, MetaEngine, Minitransaction, Write } from '../../lib/meta/engine.ts';
import type { Tenants } from '../auth/tenants.ts';
import type { Connections } from '../connections.ts';
import { KeptShare } from '../kept-share.ts';
import {
  assignmentSchema,
  configField,
  decode,
  encodeConfig,
  groupSchema,
  recordsOf,
  type AgentSettings,
  type Assignment,
  type EncodedConfig,
  type Group,
  type Owner,
  type Records,
  type Wanted,
} from './records.ts';
import { RevisionWatch } from './revision-watch.ts';

/** Configurations are looked up by their hash, so a copy is never old. */
const CACHED_MAX = 64;
const ATTEMPTS_MAX = 20;
const ASSIGNMENTS_MAX = 20_000;
/** In one answer: more than a person mends before trying again. */
const PROBLEMS_MAX = 20;

export interface Read<T> {
  readonly value: T | null;
  /** That the record is as it was read. */
  readonly unchanged: Compare;
}

export class ConfigRecords {
  readonly watch: RevisionWatch;
  readonly names: Records;
  readonly #connections: Pick<Connections, 'engine' | 'volume'>;
  readonly #problemsOf: (config: AgentSettings) => readonly KeyProblem[];
  readonly #tenants: Tenants;
  readonly #room: KeptShare;
  readonly #cache = new Map<string, AgentSettings>();

  /** `problemsOf`: the check of the agent itself, which is another program. */
  constructor(
    connections: Pick<Connections, 'engine' | 'volume'>,
    problemsOf: (config: AgentSettings) => readonly KeyProblem[],
    tenants: Tenants,
  ) {
    this.#connections = connections;
    this.#problemsOf = problemsOf;
    this.names = recordsOf(connections.volume);
    this.#tenants = tenants;
    this.#room = new KeptShare({
      ...{ what: 'agents with a group or a configuration of their own', remedy: 'take some out of their groups' },
      ...{ total: ASSIGNMENTS_MAX, tenants },
    });
    this.watch = new RevisionWatch(async () => {
      const [revision] = await this.engine.readNumbers([this.names.revision]);
      return revision ?? 0n;
    });
  }

  get engine(): MetaEngine {
    return this.#connections.engine;
  }

  /** Before an agent gets its first. Throws `full`. */
  async assertRoomFor(agent: string): Promise<void> {
    await this.#room.assertRoom(this.engine, this.names.assignments, this.#tenants.ownerOf(agent));
  }

  assignment(agent: string): Promise<Read<Assignment>> {
    return this.#read(assignmentSchema, { bucket: this.names.assignments, field: agent });
  }

  async assignments(): Promise<ReadonlyMap<string, Assignment>> {
    return new Map(await Array.fromAsync(scanJson(this.engine, this.names.assignments, assignmentSchema)));
  }

  /** Of those that have one, by agent. */
  assignmentsOf(agents: readonly string[]): Promise<ReadonlyMap<string, Assignment>> {
    const keys = agents.map((agent) => ({ bucket: this.names.assignments, field: agent }));
    return this.#readMany(assignmentSchema, keys);
  }

  /** Of those that there are, by name. */
  groupsOf(names: readonly string[]): Promise<ReadonlyMap<string, Group>> {
    return this.#readMany(
      groupSchema,
      names.map((name) => this.groupKey(name)),
    );
  }

  group(name: string): Promise<Read<Group>> {
    return this.#read(groupSchema, this.groupKey(name));
  }

  groupKey(name: string): Key {
    return { bucket: this.names.groups, field: name };
  }

  /** By name. */
  async groups(): Promise<ReadonlyMap<string, Group>> {
    const groups = await Array.fromAsync(scanJson(this.engine, this.names.groups, groupSchema));
    return new Map(groups.sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** What is kept of a valid configuration. Throws `config` with every problem, and `too-large`. */
  check(config: AgentSettings): EncodedConfig {
    const problems = this.#problemsOf(config);
    if (problems.length > 0) {
      const lines = problems
        .slice(0, PROBLEMS_MAX)
        .map(({ key, message }) => (key === '' ? message : `${key}: ${message}`));
      if (problems.length > PROBLEMS_MAX) lines.push(`and ${problems.length - PROBLEMS_MAX} more`);
      throw new PenstockError('config', lines.join('; '));
    }
    return encodeConfig(config);
  }

  /** What a record that was just read names. Throws `conflict` when it was changed meanwhile. */
  async config(owner: Owner, version: string): Promise<AgentSettings> {
    const known = this.#cache.get(version);
    if (known !== undefined) return known;
    const key = { bucket: this.names.configs, field: configField(owner, version) };
    const [stored] = await this.engine.read([key]);
    const config = decode(z.record(z.string(), z.unknown()), key, stored);
    if (config === null)
      throw new PenstockError('conflict', `configuration ${version} was changed meanwhile: try again`);
    this.#cache.set(version, config);
    const oldest = this.#cache.keys().next().value;
    if (this.#cache.size > CACHED_MAX && oldest !== undefined) this.#cache.delete(oldest);
    return config;
  }

  /** Deletes the configurations that are no longer named, and writes what is new. */
  configWrites(
    owner: Owner,
    before: readonly (Wanted | null)[],
    after: readonly (Wanted | null)[],
    encoded: EncodedConfig | null,
  ): Write[] {
    const kept = new Set(after.flatMap((wanted) => wanted?.version ?? []));
    const gone = new Set(before.flatMap((wanted) => wanted?.version ?? [])).difference(kept);
    const keyOf = (version: string): Key => ({ bucket: this.names.configs, field: configField(owner, version) });
    return [
      ...[...gone].map((version) => ({ key: keyOf(version), value: null })),
      ...(encoded === null ? [] : [{ key: keyOf(encoded.version), value: encoded.bytes }]),
    ];
  }

  /**
   * Commits what `decide` makes of fresh records (null: nothing is to be changed), and asks it again while others change them. Throws what it
   * throws, and `conflict`.
   */
  async change(decide: () => Promise<Minitransaction | null>): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const transaction = await decide();
      if (transaction === null) return;
      const patch = [...(transaction.patch ?? []), { number: this.names.revision, add: 1n }];
      const { ok } = await this.engine.commit({ ...transaction, patch, operation: randomUUID() });
      if (!ok) continue;
      this.watch.changed();
      return;
    }
    throw new PenstockError('conflict', `others changed it ${ATTEMPTS_MAX} times meanwhile: try again`);
  }

  /** By field. */
  async #readMany<T>(schema: z.ZodType<T>, keys: readonly Key[]): Promise<ReadonlyMap<string, T>> {
    const stored = keys.length === 0 ? [] : await this.engine.read(keys);
    const found = new Map<string, T>();
    for (const [index, key] of keys.entries()) {
      const value = decode(schema, key, stored[index]);
      if (value !== null) found.set(key.field, value);
    }
    return found;
  }

  async #read<T>(schema: z.ZodType<T>, key: Key): Promise<Read<T>> {
    const [stored] = await this.engine.read([key]);
    return { value: decode(schema, key, stored), unchanged: { key, version: stored?.version ?? null } };
  }
}
