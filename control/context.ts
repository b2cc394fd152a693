/** What the server is made of. Routes see of it what their request's scope shows: scope/scope.ts. */
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { Clock } from '../lib/clock.ts';
import type { KeyProblem } from '../lib/config/issues.ts';
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { AgentConfigs } from './agents/agent-configs.ts';
import { ConfigRecords } from './agents/config-records.ts';
import { AgentGroups } from './agents/groups.ts';
import type { AgentSettings } from './agents/records.ts';
import { Reports } from './agents/reports.ts';
import { Rollouts } from './agents/rollouts.ts';
import { Oidc } from './auth/oidc.ts';
import { Tenants } from './auth/tenants.ts';
import type { Tokens } from './auth/tokens.ts';
import { HostRules } from './connect/hosts.ts';
import { ConnectionRecords } from './connect/records.ts';
import type { Sealer } from './connect/seal.ts';
import { VendorCalls } from './connect/vendor-calls.ts';
import type { Connections } from './connections.ts';
import { AuditLog } from './lake/audit.ts';
import { FileSizeIndex } from './lake/file-sizes.ts';
import { Monitor } from './lake/monitor.ts';
import { Runs } from './lake/runs.ts';
import { LakeSql } from './lake/sql.ts';
import { Tables } from './lake/tables.ts';
import { Shares } from './share.ts';
import { SharedReading } from './shared-reading.ts';
import { VolumeOperations } from './volume-operations.ts';
import type { VolumeTools } from './volume-tools.ts';

/** A waiting agent holds a socket and a timer; there are no more agents than that (agents/reports.ts). */
const HELD_MAX = 20_000;
/** A thousand heartbeats at once, ten times over; 128 of the largest requests. */
const BODY_BYTES_MAX = 32 << 20;

/** Every open page asks. */
const SESSIONS_MS = 1000;

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>;

/** What is wrong with a configuration for agents, by the agent's own schema: another program, so whoever starts this one brings it. */
export type AgentConfigProblems = (config: AgentSettings) => readonly KeyProblem[];

export class ControlContext {
  readonly config: PipelineConfig;
  readonly clock: Clock;
  readonly connections: Connections;
  readonly tokens: Tokens;
  readonly oidc: Oidc | null;
  readonly tenants: Tenants;
  readonly tables = new Tables();
  readonly fileSizes = new FileSizeIndex();
  readonly connectionRecords: ConnectionRecords;
  readonly vendorCalls: VendorCalls;
  readonly audit: AuditLog;
  readonly agentReports: Reports;
  /** Requests that wait for a change. */
  readonly held: Shares;
  /** Of the requests that are being read. */
  readonly bodyBytes: Shares;
  /** How many are alive, by kind. */
  readonly sessions: SharedReading<Readonly<Record<string, number>>>;
  readonly volumeOperations: VolumeOperations;
  readonly sql: LakeSql;
  readonly runs: Runs;
  readonly monitor: Monitor;
  readonly configRecords: ConfigRecords;
  readonly agentConfigs: AgentConfigs;
  readonly agentGroups: AgentGroups;
  readonly rollouts: Rollouts;
  /** Fires when the server ends: whoever is kept waiting is answered. */
  readonly ending: AbortSignal;

  constructor(
    config: PipelineConfig,
    clock: Clock,
    connections: Connections,
    tokens: Tokens,
    options: {
      readonly agentConfigProblems: AgentConfigProblems;
      readonly volumeTools: VolumeTools;
      readonly ending: AbortSignal;
      readonly sealer: Sealer;
    },
  ) {
    this.config = config;
    this.clock = clock;
    this.connections = connections;
    this.tokens = tokens;
    this.oidc = config.serve.oidc === undefined ? null : new Oidc(config.serve.oidc, clock);
    this.tenants = new Tenants(config.serve.tenants);
    const parties = this.tenants.names.length + 1;
    this.held = new Shares({ total: HELD_MAX, parties });
    this.bodyBytes = new Shares({ total: BODY_BYTES_MAX, parties });
    this.connectionRecords = new ConnectionRecords(connections, options.sealer, this.tenants);
    this.vendorCalls = new VendorCalls(new HostRules(config.serve.connections.hosts), parties);
    this.audit = new AuditLog(clock);
    this.agentReports = new Reports(connections, clock, this.tenants);
    this.sessions = new SharedReading(clock, SESSIONS_MS);
    this.volumeOperations = new VolumeOperations(connections, clock, options.volumeTools, options.ending);
    this.sql = new LakeSql(this.tables, parties);
    this.runs = new Runs(clock);
    this.monitor = new Monitor(connections, config.datasets, this.tables, clock);
    this.configRecords = new ConfigRecords(connections, options.agentConfigProblems, this.tenants);
    this.agentConfigs = new AgentConfigs(this.configRecords, clock);
    this.agentGroups = new AgentGroups(this.configRecords, this.tenants, clock);
    this.rollouts = new Rollouts(this.configRecords, this.agentGroups, connections, clock);
    this.ending = options.ending;
  }

  /** Those that are alive, by kind; as they were at most SESSIONS_MS ago. */
  async sessionCounts(): Promise<Readonly<Record<string, number>>> {
    const { engine } = this.connections;
    return this.sessions.get(async () => {
      const counts: Record<string, number> = {};
      for (const { kind, live } of await engine.sessions()) if (live) counts[kind] = (counts[kind] ?? 0) + 1;
      return counts;
    });
  }

  async close(): Promise<void> {
    await this.volumeOperations.close();
    await this.rollouts.close();
    await this.monitor.stop();
    await this.sql.close();
    await this.connections.close();
  }
}
