/**
 * The driver registry: which adapter serves a URL, by scheme. Adapters are loaded when first used, so that a program pays for
 * (and needs) only the client libraries that its configuration names.
 */
import { isAbsolute, resolve } from 'node:path';
import { PenstockError } from './errors.ts';
import type { Log, OpenLog } from './log/log.ts';
import type { MetaEngine, OpenMetaEngine, SessionOptions } from './meta/engine.ts';
import type { ObjectStore, OpenObjectStore, StoreCredentials } from './store/store.ts';
import { parsePortUrl, textWithoutCredentials } from './urls.ts';

const logDrivers: Readonly<Record<string, () => Promise<OpenLog>>> = {
  'file:': async () => (await import('./log/file/file-log.ts')).openFileLog,
  'kafka:': async () => (await import('./log/kafka/kafka-log.ts')).openKafkaLog,
};

const storeDrivers: Readonly<Record<string, () => Promise<OpenObjectStore>>> = {
  'dir:': async () => (await import('./store/dir/dir-store.ts')).openDirStore,
  's3:': async () => (await import('./store/s3/s3-store.ts')).openS3Store,
};

const redis = async (): Promise<OpenMetaEngine> => (await import('./meta/redis/redis-engine.ts')).openRedisEngine;
const metaDrivers: Readonly<Record<string, () => Promise<OpenMetaEngine>>> = {
  'sqlite:': async () => (await import('./meta/sqlite/sqlite-engine.ts')).openSqliteEngine,
  'redis:': redis,
  'rediss:': redis,
  'redis+sentinel:': redis,
};

function driver<T>(kind: string, drivers: Readonly<Record<string, T>>, text: string): { url: URL; load: T } {
  const url = parsePortUrl(text);
  if (url === null) {
    throw new PenstockError(
      'config',
      `'${textWithoutCredentials(text)}' is not the URL of a ${kind}: expected one of ${Object.keys(drivers).join(', ')}`,
    );
  }
  const load = drivers[url.protocol];
  if (load === undefined) {
    throw new PenstockError(
      'config',
      `no ${kind} driver for '${url.protocol}': expected one of ${Object.keys(drivers).join(', ')}`,
    );
  }
  return { url, load };
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

export async function openStore(text: string, credentials?: StoreCredentials): Promise<ObjectStore> {
  const { url, load } = driver('object store', storeDrivers, text);
  return (await load())(url, credentials);
}

export async function openMeta(text: string, session: SessionOptions): Promise<MetaEngine> {
  const { url, load } = driver('metadata engine', metaDrivers, text);
  return (await load())(url, session);
}
