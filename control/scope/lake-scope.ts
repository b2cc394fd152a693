/** The lake as one tenant (or the platform) may see it: the datasets that it owns, and what is kept of these. */
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DatasetConfig, PipelineConfig } from '../../lib/config/pipeline.ts';
import { landedFiles, type LandedFiles } from '../../lib/lake/landed-files.ts';
import { PenstockError } from '../../lib/errors.ts';
import { quarantineBucket, readQuarantine, type QuarantineRecord } from '../../lib/lake/quarantine.ts';
import type { Selected } from '../../lib/sql/duckdb.ts';
import type { TableState } from '../../lib/table/table.ts';
import type { ControlContext } from '../context.ts';
import type { FileSizes } from '../lake/file-sizes.ts';
import { findLineage, recordLineage, snapshotUsed, type LineageRecord } from '../lake/lineage.ts';
import type { Sample } from '../lake/monitor.ts';
import { readPartitions, type PartitionState } from '../lake/partitions.ts';
import type { Run } from '../lake/runs.ts';
import type { SqlAnswer } from '../lake/sql.ts';

export interface QuarantinedObject extends QuarantineRecord {
  readonly dataset: string;
  readonly object: string;
}

/** As the trends beside them. */
const FILES_SPAN_MS = 7 * 86_400_000;

export class LakeScope {
  readonly datasetNames: readonly string[];
  readonly #context: ControlContext;
  readonly #tenant: string | null;
  readonly #owns: (name: string) => boolean;
  readonly #datasets: ReadonlyMap<string, DatasetConfig>;

  constructor(context: ControlContext, tenant: string | null) {
    this.#context = context;
    this.#tenant = tenant;
    this.#owns = (name) => tenant === null || context.tenants.ownerOf(name) === tenant;
    const owned = context.config.datasets.filter(({ name }) => this.#owns(name));
    this.#datasets = new Map(owned.map((dataset) => [dataset.name, dataset]));
    this.datasetNames = [...this.#datasets.keys()];
  }

  /** Throws `not-found`. */
  dataset(name: string): DatasetConfig {
    const dataset = this.#datasets.get(name);
    if (dataset === undefined) throw new PenstockError('not-found', `there is no dataset ${name} in the configuration`);
    return dataset;
  }

  /** The one that was asked for, or all. Throws `not-found`. */
  datasets(name: string | undefined): readonly string[] {
    return name === undefined ? this.datasetNames : [this.dataset(name).name];
  }

  /** null: none could be taken yet. */
  get latest(): Sample | null {
    const { latest } = this.#context.monitor;
    return latest === null ? null : this.#ownOf(latest);
  }

  get history(): readonly Sample[] {
    return this.#context.monitor.history.map((sample) => this.#ownOf(sample));
  }

  #ownOf(sample: Sample): Sample {
    return { ...sample, datasets: sample.datasets.filter(({ name }) => this.#datasets.has(name)) };
  }

  /** Why there is no sample: what is down, else it is a matter of moments. */
  notYet(): PenstockError {
    const down = this.#context.connections.health.find(({ ok }) => !ok);
    const why =
      down === undefined ? 'the first sample is being taken' : `the ${down.name} is down: ${down.problem ?? ''}`;
    return new PenstockError('unavailable', `no figures yet: ${why}`);
  }

  /** null: nothing has landed yet. Throws `not-found`. */
  async table(dataset: string): Promise<TableState | null> {
    return this.#context.tables.get(this.#context.connections.lake, this.dataset(dataset).name);
  }

  async fileSizes(dataset: string): Promise<FileSizes> {
    return this.#context.fileSizes.get(await this.table(dataset));
  }

  async partitions(dataset: string): Promise<PartitionState[]> {
    const { lake, log } = this.#context.connections;
    return readPartitions(lake, log, this.dataset(dataset));
  }

  /** Of one dataset or of all, newest first. */
  async runs(dataset?: string): Promise<readonly Run[]> {
    const { engine, volume } = this.#context.connections;
    return this.#context.runs.list(engine, volume, this.datasets(dataset));
  }

  /** `runs` of this scope. */
  landedFiles(runs: readonly Run[], nowMs: number): LandedFiles[] {
    const { lander } = this.#context.config;
    return landedFiles(runs, { fromMs: nowMs - FILES_SPAN_MS, nowMs, lander, prices: this.prices });
  }

  get prices(): PipelineConfig['prices'] {
    return this.#context.config.prices;
  }

  async *quarantine(dataset?: string): AsyncGenerator<QuarantinedObject> {
    const { engine, volume } = this.#context.connections;
    for (const name of this.datasets(dataset)) {
      for await (const [object, record] of readQuarantine(engine, volume, name)) {
        yield { dataset: name, object, ...record };
      }
    }
  }

  /** Rows of a quarantine object, which is `object` in the statement. Only what the engine refers to can be read: the key is a name from outside. */
  async quarantined(dataset: string, object: string, sql: string, rowsMax: number): Promise<Selected> {
    const { name } = this.dataset(dataset);
    const { lake } = this.#context.connections;
    const [stored] = /^[ -~]*$/.test(object)
      ? await lake.engine.read([{ bucket: quarantineBucket(lake.volume, name), field: object }])
      : [];
    if (stored == null) throw new PenstockError('not-found', `${name} has no quarantine object ${object}`);
    const info = await lake.store.head(object);
    if (info === null) throw new PenstockError('corrupt', `${object} does not exist, but the quarantine refers to it`);
    return this.#context.sql.readObject(lake, { key: object, bytes: info.bytes }, sql, rowsMax, this.#tenant);
  }

  /** One SELECT, for which there are no other tables than the own ones. */
  async sql(statement: string, rowsMax: number): Promise<SqlAnswer> {
    return this.#context.sql.query(this.#context.connections.lake, this.datasetNames, statement, rowsMax, this.#tenant);
  }

  /** Throws `not-found` for a dataset or snapshot, and what `recordLineage` throws. */
  async recordUse(
    use: Omit<LineageRecord, 'recordedMs' | 'snapshotId'> & { readonly snapshotId: string | undefined },
  ): Promise<LineageRecord> {
    const snapshotId = snapshotUsed(use.dataset, await this.table(use.dataset), use.snapshotId);
    const { engine, volume } = this.#context.connections;
    return recordLineage(engine, volume, this.#context.clock, { ...use, snapshotId });
  }

  /** Newest first, also of datasets that the configuration no longer has. Models have no owner; the datasets that trained them do. */
  async uses(by: Parameters<typeof findLineage>[2]): Promise<LineageRecord[]> {
    if (by.dataset !== undefined && !this.#owns(by.dataset)) this.dataset(by.dataset);
    const { engine, volume } = this.#context.connections;
    return (await findLineage(engine, volume, by)).filter(({ dataset }) => this.#owns(dataset));
  }

  /** Of the disk under a `dir:` store. null: the store has no end, or it is not the tenant's to know. */
  async disk(): Promise<{ readonly store: string; readonly freeBytes: number } | null> {
    const { store } = this.#context.connections.lake;
    const path = store.localPath('any');
    if (path === null || this.#tenant !== null) return null;
    const { bavail, bsize } = await statfs(dirname(path));
    return { store: store.url, freeBytes: bavail * bsize };
  }
}
