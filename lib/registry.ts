/**
 * The driver registry: which adapter serves a URL, by scheme. Adapters are loaded when first used, so that a program pays for
 * (and needs) only the client libraries that its configuration names.
 */
import { isAbsolute, resolve } from 'node:path';
import { isCode, PenstockError } from './errors.ts';
import type { Log, OpenLog } from './log/log.ts';
import type { MetaEngine, OpenMetaEngine, SessionOptions } from './meta/engine.ts';
import type { CredentialSource, ObjectStore, OpenObjectStore, StoreCredentials } from './store/store.ts';
import { encodePath, parsePortUrl, shownInError } from './urls.ts';
import type { Vendor } from './vendor.ts';

interface Driver<T> {
  readonly form: string;
  readonly open: () => Promise<T>;
  /** Parses a URL as `open` does. Throws `config`, and something else for a file that it names and that cannot be read. */
  readonly parse: () => Promise<(url: URL) => unknown>;
  /** What may stand behind the `?`, and what it means. */
  readonly options?: () => Promise<Readonly<Record<string, string>>>;
  /** The vendor's own calls; none: it can be no connection of the control plane. */
  readonly vendor?: () => Promise<Vendor>;
}
type Drivers<T> = Readonly<Record<string, Driver<T>>>;

const logDrivers: Drivers<OpenLog> = {
  'file:': {
    form: 'file:DIR',
    open: async () => (await import('./log/file/file-log.ts')).openFileLog,
    parse: async () => (await import('./log/file/file-log.ts')).parseFileUrl,
  },
  'kafka:': {
    form: 'kafka://HOST:PORT,HOST:PORT',
    open: async () => (await import('./log/kafka/kafka-log.ts')).openKafkaLog,
    parse: async () => (await import('./log/kafka/kafka-url.ts')).parseKafkaUrl,
    options: async () => (await import('./log/kafka/kafka-url.ts')).KAFKA_OPTIONS,
    vendor: async () => (await import('./log/kafka/kafka-vendor.ts')).kafkaVendor,
  },
};

const storeDrivers: Drivers<OpenObjectStore> = {
  'dir:': {
    form: 'dir:PATH',
    open: async () => (await import('./store/dir/dir-store.ts')).openDirStore,
    parse: async () => (await import('./store/dir/dir-store.ts')).parseDirUrl,
  },
  's3:': {
    form: 's3://BUCKET/PREFIX',
    open: async () => (await import('./store/s3/s3-store.ts')).openS3Store,
    parse: async () => (await import('./store/s3/s3-options.ts')).parseS3Url,
    options: async () => (await import('./store/s3/s3-options.ts')).S3_OPTIONS,
    vendor: async () => (await import('./store/s3/s3-vendor.ts')).s3Vendor,
  },
};

const redis = {
  open: async () => (await import('./meta/redis/redis-engine.ts')).openRedisEngine,
  parse: async () => (await import('./meta/redis/options.ts')).parseOptions,
  options: async () => (await import('./meta/redis/options.ts')).REDIS_OPTIONS.server,
  vendor: async () => (await import('./meta/redis/redis-vendor.ts')).redisVendor,
};
const metaDrivers: Drivers<OpenMetaEngine> = {
  'sqlite:': {
    form: 'sqlite:PATH',
    open: async () => (await import('./meta/sqlite/sqlite-engine.ts')).openSqliteEngine,
    parse: async () => (await import('./meta/sqlite/sqlite-engine.ts')).parseSqliteUrl,
  },
  'redis:': { form: 'redis://HOST:PORT/DB', ...redis },
  'rediss:': { form: 'rediss://HOST:PORT/DB', ...redis },
  'redis+sentinel:': {
    form: 'redis+sentinel://HOST:PORT,HOST:PORT/DB?master=NAME',
    open: redis.open,
    parse: redis.parse,
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

const KINDS = { log: 'log', store: 'store', meta: 'metadata engine' } as const;

/**
 * What is wrong with the URL of a port, in words; null when nothing is. Asks nobody, and says nothing of files that the URL names: they may be on the
 * machine that it is for.
 */
export async function urlProblem(port: keyof typeof KINDS, text: string): Promise<string | null> {
  const drivers: Drivers<unknown> = { log: logDrivers, store: storeDrivers, meta: metaDrivers }[port];
  try {
    const { url, parse } = driver(KINDS[port], drivers, text);
    (await parse())(url);
    return null;
  } catch (error) {
    if (isCode(error, 'config')) return error.message;
    if (error instanceof PenstockError) return null;
    throw error;
  }
}

function driver<T>(kind: string, drivers: Drivers<T>, text: string): Driver<T> & { readonly url: URL } {
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
  // (`file:` without a path is parsed as the root.)
  if (/^(?:file:\/{0,3}|dir:|sqlite:)$/.test(url.href.replace(/[?#].*$/, ''))) {
    throw new PenstockError('config', `'${text}' names no path: expected ${found.form}`);
  }
  return { url, ...found };
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
  // Not the folder itself: the path was forgotten, and whoever opens it says so.
  if (path === '') return text;
  return `${match[1] ?? ''}:${isAbsolute(path) ? path : resolve(encodePath(baseDir), path)}${match[3] ?? ''}`;
}

export async function openLog(text: string): Promise<Log> {
  const { url, open } = driver(KINDS.log, logDrivers, text);
  return (await open())(url);
}

export async function openStore(text: string, credentials?: StoreCredentials | CredentialSource): Promise<ObjectStore> {
  const { url, open } = driver(KINDS.store, storeDrivers, text);
  return (await open())(url, credentials);
}

export async function openMeta(text: string, session: SessionOptions): Promise<MetaEngine> {
  const { url, open } = driver(KINDS.meta, metaDrivers, text);
  return (await open())(url, session);
}
