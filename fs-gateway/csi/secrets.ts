/**
 * The secrets of a call: `meta` (URL of the metadata engine), `store` (URL of the object store, for new volumes), `accessKeyId` and
 * `secretAccessKey` of the store (without them, the credentials of the driver's own environment).
 *
 * Invariants: no message, log line or argument ever shows a value.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromSystemError, PenstockError, systemCode } from '../../lib/errors.ts';
import type { StoreCredentials } from '../../lib/store/store.ts';
import { parsePortUrl } from '../../lib/urls.ts';
import type { StringMap } from './protocol.ts';
import { invalid } from './status.ts';

export interface Secrets {
  readonly metaUrl: string;
  readonly storeUrl: string | undefined;
  readonly credentials: StoreCredentials | undefined;
}

const NAMES = ['meta', 'store', 'accessKeyId', 'secretAccessKey'] as const;

/** Throws INVALID_ARGUMENT naming the key. */
export function parseSecrets(given: StringMap, defaults: StringMap | undefined): Secrets {
  const values = Object.keys(given).length === 0 ? (defaults ?? {}) : given;
  const value = (name: (typeof NAMES)[number]): string | undefined => {
    const text = values[name]?.trim();
    return text === '' ? undefined : text;
  };
  const metaUrl = value('meta');
  if (metaUrl === undefined) {
    throw invalid("secret 'meta' is missing: the URL of the metadata engine, as redis://host:6379/0");
  }
  const parsed = parsePortUrl(metaUrl);
  if (parsed === null) throw invalid("secret 'meta' is not a URL: expected redis://, rediss:// or redis+sentinel://");
  if (parsed.searchParams.has('volume')) {
    throw invalid("secret 'meta' names a volume (?volume=): the volume's id does that");
  }
  const storeUrl = value('store');
  if (storeUrl !== undefined && parsePortUrl(storeUrl) === null) {
    throw invalid("secret 'store' is not a URL: expected s3://bucket/prefix?endpoint=URL&region=R");
  }
  const [accessKeyId, secretAccessKey] = [value('accessKeyId'), value('secretAccessKey')];
  if ((accessKeyId === undefined) !== (secretAccessKey === undefined)) {
    throw invalid("secrets 'accessKeyId' and 'secretAccessKey' belong together: one is missing");
  }
  const credentials =
    accessKeyId === undefined || secretAccessKey === undefined ? undefined : { accessKeyId, secretAccessKey };
  return { metaUrl, storeUrl, credentials };
}

/** A mounted Secret: one file a key. Throws `config` when it has no `meta`. */
export function readSecretsFolder(folder: string): StringMap {
  const secrets: Record<string, string> = {};
  for (const name of NAMES) {
    const path = join(folder, name);
    try {
      secrets[name] = readFileSync(path, 'utf8').trim();
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw fromSystemError(error, path);
    }
  }
  if (secrets['meta'] === undefined) throw new PenstockError('config', `${folder} has no file 'meta'`);
  return secrets;
}
