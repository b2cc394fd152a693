/** Which Redis serves: refuses, by name, those on which the engine's promises would not hold. */
import { PenstockError } from '../../errors.ts';
import type { EngineOptions } from './options.ts';

/** Scripts with flags (`#!lua flags=`) came with 7.0: without them nothing could be deleted from a full Redis. */
const LEAST_VERSION = [7, 0];
const WAITAOF_VERSION = [7, 2];
const EPOCH_FIELD = 'master_replid';

export interface ServerIdentity {
  /** `master_replid`: another one after a restart, a restore, or a failover. */
  readonly epoch: string;
}

/** Reads the answer of INFO. Throws `unsupported`; `unavailable` for a replica, which a failover may just be making a master. */
export function checkServer(info: string, options: EngineOptions): ServerIdentity {
  const fields = parseInfo(info);
  const refuse = (what: string): PenstockError => new PenstockError('unsupported', `${options.url}: ${what}`);
  const version = fields.get('redis_version') ?? '0';
  if (!isAtLeast(version, LEAST_VERSION)) throw refuse(`Redis ${version} is too old: 7.0 or newer is needed`);
  if (fields.get('cluster_enabled') === '1') {
    throw refuse('Redis Cluster is not supported yet: use a single master, with Sentinel for failover');
  }
  const policy = fields.get('maxmemory_policy') ?? 'noeviction';
  if (policy.startsWith('allkeys-')) {
    throw refuse(
      `maxmemory-policy ${policy} would evict records: set it to noeviction (CONFIG SET maxmemory-policy noeviction)`,
    );
  }
  if (options.durability === 'waitaof') {
    if (!isAtLeast(version, WAITAOF_VERSION)) {
      throw refuse(`durability=waitaof needs Redis 7.2 or newer, this is ${version}: use durability=wait`);
    }
    if (fields.get('aof_enabled') !== '1')
      throw refuse('durability=waitaof needs appendonly yes in the configuration of Redis');
  }
  if (fields.get('role') !== 'master') {
    throw new PenstockError(
      'unavailable',
      `${options.url} is a read-only replica: name its master, or the Sentinels that know it`,
    );
  }
  const epoch = fields.get(EPOCH_FIELD) ?? '';
  if (epoch.length !== 40) throw refuse('INFO gives no master_replid: this is no Redis that can tell of a failover');
  return { epoch };
}

/** From an answer of INFO; empty when it has none. */
export function epochOf(info: string): string {
  return parseInfo(info).get(EPOCH_FIELD) ?? '';
}

function parseInfo(info: string): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (const line of info.split('\r\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return fields;
}

function isAtLeast(version: string, least: readonly number[]): boolean {
  const parts = version.split('.').map(Number);
  for (const [i, minimum] of least.entries()) {
    const part = parts[i] ?? 0;
    if (part !== minimum) return part > minimum;
  }
  return true;
}
