/**
 * Connections: services beside the pipeline's own ports that this API knows by a name, may be asked to test, and passes vendors' calls through to.
 *
 *   {VOLUME}connections / <name>     ConnectionRecord as JSON
 *
 * Invariants: credentials stand in a record only sealed, bound to volume, name and URL; a change names the version that it was made from. Limits: CONNECTIONS_MAX, of
 * one tenant its share of them (kept-share.ts).
 */
import { createHash, randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import { scanJson } from '../../lib/lake/scan.ts';
import type { Key, Version } from '../../lib/meta/engine.ts';
import type { Tenants } from '../auth/tenants.ts';
import type { Connections } from '../connections.ts';
import { KeptShare } from '../kept-share.ts';
import { type Sealed, sealedSchema, type Sealer } from './seal.ts';

const CONNECTIONS_MAX = 1000;

export const priceSchema = z.strictObject({
  currency: z.string().min(1).max(10),
  storageGBMonth: z.number().min(0).optional(),
  gets: z.number().min(0).optional().meta({ description: 'a thousand requests' }),
  puts: z.number().min(0).optional().meta({ description: 'a thousand requests' }),
  egressGB: z.number().min(0).optional(),
});

const recordSchema = z.object({
  /** Of the request that made it. */
  id: z.string(),
  url: z.string(),
  region: z.string(),
  tags: z.record(z.string(), z.string()),
  price: priceSchema.nullable(),
  /** The names of what is sealed. */
  credentials: z.array(z.string()),
  sealed: sealedSchema.nullable(),
  changedMs: z.number(),
  changedBy: z.string(),
  /** Whether a tenant's people said the URL: then it leads where these may connect to. */
  byTenant: z.boolean(),
});
export type ConnectionRecord = z.output<typeof recordSchema>;

export type Credentials = Readonly<Record<string, string>>;

/** What somebody says of a connection; without credentials, those that are kept. */
export interface ConnectionForm extends Pick<ConnectionRecord, 'url' | 'region' | 'tags'> {
  readonly price?: ConnectionRecord['price'] | undefined;
  readonly credentials?: Credentials | undefined;
}

interface Changer {
  readonly name: string;
  readonly byTenant: boolean;
  readonly nowMs: number;
}

/** Throws when the version that is there (null: none) is not what the client thinks. */
export type Precondition = (current: string | null) => void;

/** Of the same record the same, however it was made. */
export const versionOf = (record: ConnectionRecord): string =>
  createHash('sha256')
    .update(JSON.stringify(recordSchema.parse(record)))
    .digest('hex')
    .slice(0, 20);

export class ConnectionRecords {
  readonly #ports: Connections;
  readonly #sealer: Sealer;
  readonly #tenants: Tenants;
  readonly #room: KeptShare;

  constructor(ports: Connections, sealer: Sealer, tenants: Tenants) {
    this.#ports = ports;
    this.#sealer = sealer;
    this.#tenants = tenants;
    this.#room = new KeptShare({ what: 'connections', remedy: 'delete some', total: CONNECTIONS_MAX, tenants });
  }

  /** By name. */
  async list(): Promise<ReadonlyMap<string, ConnectionRecord>> {
    const all = await Array.fromAsync(scanJson(this.#ports.engine, this.#bucket, recordSchema));
    return new Map(all.sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** Throws `not-found`. */
  async get(name: string): Promise<ConnectionRecord> {
    return (await this.#read(name)).record ?? none(name);
  }

  /** Throws `full`, and `exists`, unless the same request made it. */
  async create(name: string, form: ConnectionForm, by: Changer & { readonly id: string }): Promise<ConnectionRecord> {
    const { engine } = this.#ports;
    await this.#room.assertRoom(engine, this.#bucket, this.#tenants.ownerOf(name));
    const record = this.#recordOf(name, form, null, by);
    const key = this.#key(name);
    const made = await engine.commit({
      compare: [{ key, version: null }],
      write: [{ key, value: encode(record) }],
      operation: randomUUID(),
    });
    if (made.ok) return record;
    const { record: first } = await this.#read(name);
    const same = (of: ConnectionRecord): unknown => [of.id, of.url, of.region, of.tags, of.price, of.credentials];
    if (first !== null && isDeepStrictEqual(same(first), same(record))) return first;
    throw new PenstockError('exists', `there is a connection ${name} already`);
  }

  /** null deletes it. Throws `not-found`, and what `precondition` throws. */
  async change(name: string, form: ConnectionForm | null, by: Changer, precondition: Precondition): Promise<void> {
    const { record, version } = await this.#read(name);
    if (record === null) return none(name);
    precondition(versionOf(record));
    const after = form === null ? null : this.#recordOf(name, form, record, { ...by, id: record.id });
    await this.#replace(name, version, after);
  }

  /** Seals everything with the first key that is not, of the names that `owns` says; returns how many. */
  async reseal(owns: (name: string) => boolean): Promise<number> {
    let count = 0;
    for (const name of (await this.list()).keys()) {
      if (!owns(name)) continue;
      const { record, version } = await this.#read(name);
      if (record === null || record.sealed === null || record.sealed.keyId === this.#sealer.keyId) continue;
      const plain = this.#sealer.open(record.sealed, this.#context(name, record.url));
      await this.#replace(name, version, {
        ...record,
        sealed: this.#sealer.seal(plain, this.#context(name, record.url)),
      });
      count++;
    }
    return count;
  }

  /** For the call that needs them, and nothing else. */
  credentialsOf(name: string, { sealed, url }: ConnectionRecord): Credentials {
    if (sealed === null) return {};
    return z.record(z.string(), z.string()).parse(JSON.parse(this.#sealer.open(sealed, this.#context(name, url))));
  }

  #recordOf(
    name: string,
    form: ConnectionForm,
    before: ConnectionRecord | null,
    by: Changer & { readonly id: string },
  ): ConnectionRecord {
    const { url, region, tags, price = null, credentials } = form;
    const common = {
      url,
      region,
      tags,
      price,
      id: by.id,
      changedMs: by.nowMs,
      changedBy: by.name,
      // Whoever changes something else does not vouch for an address that a tenant's people said.
      byTenant: by.byTenant || (before !== null && before.byTenant && before.url === url),
    };
    if (credentials !== undefined) {
      const names = Object.keys(credentials).sort();
      const sealed: Sealed | null =
        names.length === 0 ? null : this.#sealer.seal(JSON.stringify(credentials), this.#context(name, form.url));
      return { ...common, credentials: names, sealed };
    }
    if (before !== null && before.sealed !== null && before.url !== form.url) {
      throw new PenstockError(
        'usage',
        'credentials: with another address, send them again: those that are kept are for the old one only',
      );
    }
    return { ...common, credentials: before?.credentials ?? [], sealed: before?.sealed ?? null };
  }

  async #replace(name: string, version: Version | null, after: ConnectionRecord | null): Promise<void> {
    const key = this.#key(name);
    const { ok } = await this.#ports.engine.commit({
      compare: [{ key, version }],
      write: [{ key, value: after === null ? null : encode(after) }],
      operation: randomUUID(),
    });
    if (!ok) throw new PenstockError('conflict', `${name} was changed meanwhile: look again`);
  }

  async #read(name: string): Promise<{ readonly record: ConnectionRecord | null; readonly version: Version | null }> {
    const [stored] = await this.#ports.engine.read([this.#key(name)]);
    if (stored == null) return { record: null, version: null };
    const parsed = recordSchema.safeParse(JSON.parse(stored.value.toString('utf8')));
    if (!parsed.success) throw new PenstockError('corrupt', `the record of connection ${name} is none of this version`);
    return { record: parsed.data, version: stored.version };
  }

  get #bucket(): string {
    return `{${this.#ports.volume}}connections`;
  }

  #key(name: string): Key {
    return { bucket: this.#bucket, field: name };
  }

  #context(name: string, url: string): string {
    return JSON.stringify([this.#ports.volume, name, url]);
  }
}

const encode = (record: ConnectionRecord): Buffer => Buffer.from(JSON.stringify(record));

function none(name: string): never {
  throw new PenstockError('not-found', `there is no connection ${name}`);
}
