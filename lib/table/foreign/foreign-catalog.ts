/**
 * Tables whose truth is in another program's Iceberg REST catalog, instead of in our metadata engine.
 *
 * Invariants
 * - A commit is one request of the catalog that requires branch main to be the snapshot that it was drafted on, and the sort order to be
 *   that one when it sets another; the engine follows (follow.ts), before the commit is reported and whenever the table is loaded.
 * - Tables lie in their folder of our store: the volume's directories show their files, and orphan removal knows them.
 * Failure: a request without an answer is sent again: main, or the sort order, is no longer what it requires once it was applied. When the
 * catalog stays silent the outcome is thrown as `timeout`, and nothing that was written is deleted.
 * Limits: SENDS_MAX sends of one commit.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { describeError, isCode, PenstockError } from '../../errors.ts';
import type { Version } from '../../meta/engine.ts';
import { KEEPS_OBJECTS, SPARK_READS } from '../client-properties.ts';
import { stringifyJson } from '../json.ts';
import { tableFolder } from '../keys.ts';
import { currentSnapshot, parseMetadata, type TableMetadata } from '../metadata.ts';
import { type CommitParts, type LakeContext, stateOf, type TableCatalog, type TableState } from '../table.ts';
import { follow, holds, withRedo } from './follow.ts';
import { RestClient, type RestCatalogOptions } from './rest-client.ts';
import { updatesBetween, updatesOfNew } from './updates.ts';
import { vendedIn, type VendedCredentials } from './vended-credentials.ts';

const SENDS_MAX = 5;
const PAUSE_MS = 200;
const DEFAULT_NAMESPACE = 'default';

const loadedSchema = z.looseObject({ 'metadata-location': z.string(), metadata: z.unknown() });

interface Loaded {
  readonly location: string;
  readonly metadata: TableMetadata;
}

export class ForeignCatalog implements TableCatalog {
  readonly #client: RestClient;
  /** Catalogs may leave the endpoint of credentials out. */
  #hasCredentials = true;

  constructor(options: RestCatalogOptions) {
    this.#client = new RestClient(options);
  }

  async load(lake: LakeContext, name: string): Promise<TableState | null> {
    const loaded = await this.#read(name);
    return loaded === null ? null : this.#state(lake, name, loaded);
  }

  async create(lake: LakeContext, name: string, metadata: TableMetadata): Promise<void> {
    const levels = levelsOf(name);
    for (let depth = 1; depth <= levels.length; depth++) {
      // 409: it is there.
      await this.#client.request('POST', 'namespaces', { namespace: levels.slice(0, depth), properties: {} });
    }
    const own = { ...metadata, properties: { ...SPARK_READS, ...metadata.properties, ...KEEPS_OBJECTS } };
    const { status, message } = await this.#client.request('POST', pathOf(name), {
      requirements: [{ type: 'assert-create' }],
      updates: updatesOfNew(own),
    });
    // 409: others were faster, and the table is loaded next.
    if (status === 404) throw new PenstockError('unsupported', `${this.#client.uri} cannot create ${name}: ${message}`);
  }

  async commit(lake: LakeContext, state: TableState, next: TableMetadata, extra: CommitParts): Promise<string | null> {
    if (!(await holds(lake.engine, extra.compare ?? []))) return null;
    const { name, metadata: before } = state;
    const after = withRedo(lake, name, next, extra);
    const updates = updatesBetween(before, after);
    // A sort order that another process set meanwhile, or a request of ours whose answer was lost.
    if (updates.length === 0) return state.metadataLocation;
    const main = before.refs['main']?.['snapshot-id'] ?? null;
    const orderId = before['default-sort-order-id'];
    const request = {
      requirements: [
        { type: 'assert-table-uuid', uuid: before['table-uuid'] },
        { type: 'assert-ref-snapshot-id', ref: 'main', 'snapshot-id': main },
        ...(after['default-sort-order-id'] === orderId
          ? []
          : [{ type: 'assert-default-sort-order-id', 'default-sort-order-id': orderId }]),
        // A tag that is over may just have been given to another snapshot.
        ...Object.entries(before.refs)
          .filter(([ref]) => after.refs[ref] === undefined)
          .map(([ref, { 'snapshot-id': id }]) => ({ type: 'assert-ref-snapshot-id', ref, 'snapshot-id': id })),
      ],
      updates,
    };
    const committed = await this.#send(name, request, currentSnapshot(after)?.['snapshot-id'] ?? null, main);
    if (committed === null) return null;
    await this.#state(lake, name, committed);
    return committed.location;
  }

  /** Those that the catalog hands out for a table of ours, which lies at `location`. Throws `not-found` without a table, `config` without any. */
  async credentials(name: string, location: string): Promise<VendedCredentials> {
    const given = this.#hasCredentials ? await this.#ownCredentials(name, location) : null;
    if (given !== null) return given;
    const { status, body } = await this.#client.request('GET', `${pathOf(name)}?snapshots=refs`);
    if (status === 404) throw new PenstockError('not-found', `there is no table ${name} in ${this.#client.uri}`);
    this.#hasCredentials = false;
    const vended = vendedIn(body, location);
    if (vended !== null) return vended;
    throw new PenstockError(
      'config',
      `${this.#client.uri} hands out no S3 credentials for table ${name}: let it, or leave catalog.accessDelegation out`,
    );
  }

  async #ownCredentials(name: string, location: string): Promise<VendedCredentials | null> {
    try {
      return vendedIn((await this.#client.request('GET', `${pathOf(name)}/credentials`)).body, location);
    } catch (error) {
      if (isCode(error, 'unsupported')) return null;
      throw error;
    }
  }

  /** null: it was not applied and never will be. */
  async #send(name: string, request: unknown, ours: bigint | null, main: bigint | null): Promise<Loaded | null> {
    let silence: PenstockError | null = null;
    for (let attempt = 1; attempt <= SENDS_MAX; attempt++) {
      try {
        const answer = await this.#client.request('POST', pathOf(name), request);
        if (answer.status === 404) throw new PenstockError('not-found', `there is no table ${name}: ${answer.message}`);
        if (answer.status !== 409) return this.#loaded(answer.body, name);
        return silence === null ? null : await this.#outcome(name, ours, main);
      } catch (error) {
        if (!isCode(error, 'unavailable')) throw error;
        silence = error;
        await sleep(PAUSE_MS * attempt);
      }
    }
    throw new PenstockError(
      'timeout',
      `it is not known whether table ${name} was committed: ${describeError(silence)}`,
      { cause: silence },
    );
  }

  /** Of a commit that was sent without an answer and refused when it was sent again. */
  async #outcome(name: string, ours: bigint | null, main: bigint | null): Promise<Loaded | null> {
    const now = await this.#read(name);
    if (now === null || ours === main) return null;
    return now.metadata.snapshots.some((snapshot) => snapshot['snapshot-id'] === ours) ? now : null;
  }

  async #read(name: string): Promise<Loaded | null> {
    const { status, body } = await this.#client.request('GET', `${pathOf(name)}?snapshots=all`);
    return status === 404 ? null : this.#loaded(body, name);
  }

  #loaded(body: unknown, name: string): Loaded {
    const parsed = loadedSchema.safeParse(body);
    if (!parsed.success)
      throw new PenstockError('unsupported', `${this.#client.uri}: no table in its answer for ${name}`);
    const location = parsed.data['metadata-location'];
    return { location, metadata: parseMetadata(Buffer.from(stringifyJson(parsed.data.metadata)), location) };
  }

  async #state(lake: LakeContext, name: string, { location, metadata }: Loaded): Promise<TableState> {
    const expected = lake.store.location(tableFolder(name).slice(0, -1));
    if (metadata.location.replace(/\/+$/, '') !== expected) {
      throw new PenstockError(
        'config',
        `table ${name} lies at ${metadata.location} in ${this.#client.uri}: expected ${expected}, in the store of the configuration`,
      );
    }
    await follow(lake, name, metadata);
    // The catalog compares snapshots; there is no record of ours.
    return stateOf(lake, name, metadata, location, '' as Version);
  }
}

function levelsOf(name: string): string[] {
  const dot = name.lastIndexOf('.');
  return dot < 0 ? [DEFAULT_NAMESPACE] : name.slice(0, dot).split('.');
}

function pathOf(name: string): string {
  const levels = levelsOf(name).map(encodeURIComponent).join('%1F');
  return `namespaces/${levels}/tables/${encodeURIComponent(name.slice(name.lastIndexOf('.') + 1))}`;
}
