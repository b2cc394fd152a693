/**
 * The driver registry: which adapter serves a URL, by scheme. Adapters are loaded when first used, so that a program pays for
 * (and needs) only the client libraries that its configuration names.
 */
import { isAbsolute, resolve } from 'node:path';
import { PenstockError } from './errors.ts';
import type { Log, OpenLog } from './log/log.ts';
import type { MetaEngine, OpenMetaEngine, SessionOptions } from './meta/engine.ts';
import type { CredentialSource, ObjectStore, OpenObjectStore, StoreCredentials } from './store/store.ts';
import { parsePortUrl, shownInError } from './urls.ts';
import type { Vendor } from './vendor.ts';

interface Driver<T> {
  readonly form: string;
  readonly open: () => Promise<T>;
  /** What may stand behind the `?`, and what it means. */
  readonly options?: () => Promise<Readonly<Record<string, string>>>;
  /** The vendor's own calls; none: it can be no connection of the control plane. */
  readonly vendor?: () => Promise<Vendor>;
}
type Drivers<T> = Readonly<Record<string, Driver<T>>>;

const logDrivers: Drivers<OpenLog> = {
  'file:': { form: 'file:DIR', open: async () => (await import('./log/file/file-log.ts')).openFileLog },
  'kafka:': {
    form: 'kafka://HOST:PORT,HOST:PORT',
    open: async () => (await import('./log/kafka/kafka-log.ts')).openKafkaLog,
    options: async () => (await import('./log/kafka/kafka-url.ts')).KAFKA_OPTIONS,
    vendor: async () => (await import('./log/kafka/kafka-vendor.ts')).kafkaVendor,
  },
};

const storeDrivers: Drivers<OpenObjectStore> = {
  'dir:': { form: 'dir:PATH', open: async () => (await import('./store/dir/dir-store.ts')).openDirStore },
  's3:': {
    form: 's3://BUCKET/PREFIX',
    open: async () => (await import('./store/s3/s3-store.ts')).openS3Store,
    options: async () => (await import('./store/s3/s3-options.ts')).S3_OPTIONS,
    vendor: async () => (await import('./store/s3/s3-vendor.ts')).s3Vendor,
  },
};

const redis = {
  open: async () => (await import('./meta/redis/redis-engine.ts')).openRedisEngine,
  options: async () => (await import('./meta/redis/options.ts')).REDIS_OPTIONS.server,
  vendor: async () => (await import('./meta/redis/redis-vendor.ts')).redisVendor,
};
const metaDrivers: Drivers<OpenMetaEngine> = {
  'sqlite:': {
    form: 'sqlite:PATH',
    open: async () => (await import('./meta/sqlite/sqlite-engine.ts')).openSqliteEngine,
  },
  'redis:': { form: 'redis://HOST:PORT/DB', ...redis },
  'rediss:': { form: 'rediss://HOST:PORT/DB', ...redis },
  'redis+sentinel:': {
    form: 'redis+sentinel://HOST:PORT,HOST:PORT/DB?master=NAME',
    open: redis.open,
    options: async () => (await import('./meta/redis/options.ts')).REDIS_OPTIONS.sentinel,
  },
};

export interface DriverInfo {
  readonly scheme: string;
  readonly port: 'log' | 'store' | 'meta';
  readonly form: string;
  readonly options: Readonly<Record<string, string>>;
  /** null: it can be no connection. */
  readonly vendor: Vendor | null;
}

/** Every driver that there is. Loads what is needed to describe them. */
export async function describeDrivers(): Promise<DriverInfo[]> {
  const all = Object.entries({ log: logDrivers, store: storeDrivers, meta: metaDrivers } as const);
  return Promise.all(
    all.flatMap(([port, drivers]) =>
      Object.entries<Driver<unknown>>(drivers).map(async ([scheme, { form, options, vendor }]) => ({
        scheme: scheme.slice(0, -1),
        port: port as DriverInfo['port'], // a key of the object above
        form,
        options: (await options?.()) ?? {},
        vendor: (await vendor?.()) ?? null,
      })),
    ),
  );
}

function driver<T>(kind: string, drivers: Drivers<T>, text: string): { url: URL; load: () => Promise<T> } {
  const url = parsePortUrl(text);
  if (url === null) {
    throw new PenstockError(
      'config',
      `${shownInError(text)} is not the URL of a ${kind}: expected one of ${Object.keys(drivers).join(', ')}`,
    );
  }
  const found = drivers[url.protocol];
  if (found === undefined) {
    throw new PenstockError(
      'config',
      `no ${kind} driver for '${url.protocol}': expected one of ${Object.keys(drivers).join(', ')}`,
    );
  }
  return { url, load: found.open };
}

/** `file:./data/log`, `dir:x`, `sqlite:x` name paths of this machine (percent-encoded where a URL needs it); relative ones are resolved against `baseDir`. So are the files that a `kafka:` URL names. */
export function absoluteUrl(text: string, baseDir: string): string {
  if (text.startsWith('kafka:')) {
    return text.replace(/([?&](?:ca|passwordFile)=)([^&#]*)/g, (_, key: string, path: string) => {
      return key + encodeURIComponent(resolve(baseDir, decodeURIComponent(path)));
    });
  }
  const match = /^(file|dir|sqlite):(?:\/\/)?([^?]*)(\?.*)?$/.exec(text);
  if (match === null) return text;
  const path = match[2] ?? '';
  const base = encodeURI(baseDir).replace(/[?#]/g, encodeURIComponent);
  return `${match[1] ?? ''}:${isAbsolute(path) ? path : resolve(base, path)}${match[3] ?? ''}`;
}

export async function openLog(text: string): Promise<Log> {
  const { url, load } = driver('log', logDrivers, text);
  return (await load())(url);
}

export async function openStore(text: string, credentials?: StoreCredentials | CredentialSource): Promise<ObjectStore> {
  const { url, load } = driver('object store', storeDrivers, text);
  return (await load())(url, credentials);
}

export async function openMeta(text: string, session: SessionOptions): Promise<MetaEngine> {
  const { url, load } = driver('metadata engine', metaDrivers, text);
  return (await load())(url, session);
}
