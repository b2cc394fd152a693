/**
 * The object store of a lake whose tables are reached with credentials that their catalog hands out: what lies in the folder of a table with
 * those of that table, all else (dead letters, a volume's data) with those of the environment.
 *
 * Failure: credentials that the store does not take any more (revoked, or their end was told wrong) are asked for anew, once a call.
 * Limits: one client, with its connections, a table.
 */
import type { Clock } from '../../clock.ts';
import { isCode } from '../../errors.ts';
import type {
  CallOptions,
  CredentialSource,
  GetOptions,
  ObjectInfo,
  ObjectStore,
  PutOptions,
} from '../../store/store.ts';
import { tableOfKey } from '../keys.ts';
import { VendedSource, type VendedCredentials } from './vended-credentials.ts';

export interface VendedStoreOptions {
  /** For what is of no table. */
  readonly base: ObjectStore;
  readonly open: (credentials: CredentialSource) => Promise<ObjectStore>;
  readonly vend: (table: string) => Promise<VendedCredentials>;
  readonly clock: Clock;
}

interface TableStore {
  readonly store: ObjectStore;
  /** null: the store's own. */
  readonly source: VendedSource | null;
}

export class VendedStore implements ObjectStore {
  readonly #options: VendedStoreOptions;
  readonly #base: TableStore;
  readonly #tables = new Map<string, Promise<TableStore>>();

  constructor(options: VendedStoreOptions) {
    this.#options = options;
    this.#base = { store: options.base, source: null };
  }

  get url(): string {
    return this.#base.store.url;
  }

  put(key: string, body: Uint8Array | readonly Uint8Array[], options?: PutOptions): Promise<ObjectInfo> {
    return this.#with(key, (store) => store.put(key, body, options));
  }

  putFile(key: string, path: string, options?: PutOptions): Promise<ObjectInfo> {
    return this.#with(key, (store) => store.putFile(key, path, options));
  }

  get(key: string, options?: GetOptions): Promise<Buffer> {
    return this.#with(key, (store) => store.get(key, options));
  }

  getFile(key: string, path: string, options?: CallOptions): Promise<ObjectInfo> {
    return this.#with(key, (store) => store.getFile(key, path, options));
  }

  head(key: string, options?: CallOptions): Promise<ObjectInfo | null> {
    return this.#with(key, (store) => store.head(key, options));
  }

  async *list(prefix: string, options?: CallOptions & { readonly after?: string }): AsyncGenerator<ObjectInfo> {
    let after = options?.after;
    for (let isAgain = false; ; isAgain = true) {
      const { store, source } = await this.#of(prefix);
      const used = await source?.get();
      try {
        for await (const info of store.list(prefix, { ...options, ...(after !== undefined && { after }) })) {
          after = info.key;
          yield info;
        }
        return;
      } catch (error) {
        if (used === undefined || isAgain || !isCode(error, 'denied')) throw error;
        source?.refuse(used);
      }
    }
  }

  async delete(keys: readonly string[], options?: CallOptions): Promise<void> {
    const byTable = Map.groupBy(keys, tableOfKey);
    for (const some of byTable.values()) await this.#with(some[0] ?? '', (store) => store.delete(some, options));
  }

  location(key: string): string {
    return this.#base.store.location(key);
  }

  keyOf(location: string): string | null {
    return this.#base.store.keyOf(location);
  }

  localPath(key: string): string | null {
    return this.#base.store.localPath(key);
  }

  async close(): Promise<void> {
    const opened = await Promise.allSettled(this.#tables.values());
    for (const one of opened) if (one.status === 'fulfilled') await one.value.store.close();
    await this.#base.store.close();
  }

  async #with<T>(key: string, call: (store: ObjectStore) => Promise<T>): Promise<T> {
    const { store, source } = await this.#of(key);
    const used = await source?.get();
    try {
      return await call(store);
    } catch (error) {
      if (used === undefined || !isCode(error, 'denied')) throw error;
      source?.refuse(used);
      return call(store);
    }
  }

  #of(key: string): Promise<TableStore> | TableStore {
    const name = tableOfKey(key);
    if (name === null) return this.#base;
    let table = this.#tables.get(name);
    if (table === undefined) {
      table = this.#open(name);
      this.#tables.set(name, table);
      table.catch(() => this.#tables.delete(name));
    }
    return table;
  }

  async #open(name: string): Promise<TableStore> {
    const { open, vend, clock } = this.#options;
    const source = new VendedSource(() => vend(name), clock);
    return { store: await open(() => source.get()), source };
  }
}
