/** What the routes work with. */
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { Clock } from '../lib/clock.ts';
import type { DatasetConfig, PipelineConfig } from '../lib/config/pipeline.ts';
import { PenstockError } from '../lib/errors.ts';
import { Oidc } from './auth/oidc.ts';
import type { Tokens } from './auth/tokens.ts';
import type { Connections } from './connections.ts';
import { AuditLog } from './lake/audit.ts';
import { FileSizeIndex } from './lake/file-sizes.ts';
import { Monitor } from './lake/monitor.ts';
import { Runs } from './lake/runs.ts';
import { LakeSql } from './lake/sql.ts';
import { Tables } from './lake/tables.ts';

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>;

export class ControlContext {
  readonly config: PipelineConfig;
  readonly clock: Clock;
  readonly connections: Connections;
  readonly tokens: Tokens;
  readonly oidc: Oidc | null;
  readonly tables = new Tables();
  readonly fileSizes = new FileSizeIndex();
  readonly audit: AuditLog;
  readonly sql: LakeSql;
  readonly runs: Runs;
  readonly monitor: Monitor;

  constructor(config: PipelineConfig, clock: Clock, connections: Connections, tokens: Tokens) {
    this.config = config;
    this.clock = clock;
    this.connections = connections;
    this.tokens = tokens;
    this.oidc = config.serve.oidc === undefined ? null : new Oidc(config.serve.oidc, clock);
    this.audit = new AuditLog(clock);
    this.sql = new LakeSql(this.tables);
    this.runs = new Runs(clock);
    this.monitor = new Monitor(connections, config.datasets, this.tables, clock);
  }

  get datasetNames(): readonly string[] {
    return this.config.datasets.map(({ name }) => name);
  }

  /** Throws `not-found`. */
  dataset(name: string): DatasetConfig {
    const dataset = this.config.datasets.find((candidate) => candidate.name === name);
    if (dataset === undefined) throw new PenstockError('not-found', `there is no dataset ${name} in the configuration`);
    return dataset;
  }

  /** The one that was asked for, or all. */
  datasets(name: string | undefined): readonly string[] {
    return name === undefined ? this.datasetNames : [this.dataset(name).name];
  }

  async close(): Promise<void> {
    await this.monitor.stop();
    await this.sql.close();
    await this.connections.close();
  }
}
