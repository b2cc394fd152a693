/**
 * What a Redis URL says.
 *
 *   redis://user:password@host:port/DB          rediss:// the same over TLS
 *   redis+sentinel://host:port,host:port/DB?master=NAME
 *   ?deadline=10s          how long a call may take, reconnection included
 *   ?durability=none|wait|waitaof   what `flush()` waits for: nothing, replicas (WAIT), or their and the master's disks (WAITAOF)
 *   ?replicas=1            how many replicas `wait` and `waitaof` wait for (waitaof: default 0, the master's disk alone)
 *   ?ca=FILE               the certificate authority of a rediss:// or Sentinel server, PEM
 *   ?tls=true              TLS to the master that Sentinels name
 */
import { readFileSync } from 'node:fs';
import type { RedisOptions } from 'ioredis';
import { PenstockError, fromSystemError } from '../../errors.ts';
import { parseDuration } from '../../units.ts';
import { hostsOfUrl, withoutCredentials } from '../../urls.ts';

export interface EngineOptions {
  /** Without credentials. */
  readonly url: string;
  readonly database: number;
  readonly deadlineMs: number;
  readonly durability: 'none' | 'wait' | 'waitaof';
  readonly replicas: number;
  /** Where and as whom to connect. */
  readonly client: AddressOptions;
}

type AddressOptions = Pick<
  RedisOptions,
  | ('host' | 'port' | 'db' | 'username' | 'password' | 'tls')
  | ('sentinels' | 'name' | 'failoverDetector' | 'enableTLSForSentinelMode')
>;

const DEFAULT_DEADLINE_MS = 10_000;
const REDIS_PORT = 6379;
const SENTINEL_PORT = 26379;
const OPTION_NAMES = ['deadline', 'durability', 'replicas', 'ca', 'tls', 'master', 'volume'];

/** Throws `config` with the option's name and what was expected. */
export function parseOptions(url: URL): EngineOptions {
  const shown = withoutCredentials(url);
  const wrong = (what: string): PenstockError => new PenstockError('config', `${shown}: ${what}`);
  const query = url.searchParams;
  for (const name of query.keys()) {
    if (!OPTION_NAMES.includes(name))
      throw wrong(`unknown option '${name}': expected one of ${OPTION_NAMES.join(', ')}`);
  }
  const path = /^\/?(\d{0,4})$/.exec(url.pathname);
  if (path === null) throw wrong(`'${url.pathname}' is not a database: expected its number, as /1`);
  const database = Number(path[1]);
  const durability = query.get('durability') ?? 'none';
  if (durability !== 'none' && durability !== 'wait' && durability !== 'waitaof') {
    throw wrong(`durability=${durability}: expected none, wait or waitaof`);
  }
  const replicas = query.get('replicas') ?? (durability === 'wait' ? '1' : '0');
  if (!/^\d{1,3}$/.test(replicas)) throw wrong(`replicas=${replicas}: expected a number`);
  const deadline = query.get('deadline');
  return {
    url: shown,
    database,
    deadlineMs: deadline === null ? DEFAULT_DEADLINE_MS : parseDuration(deadline),
    durability,
    replicas: Number(replicas),
    client: {
      ...addressOptions(url, wrong),
      db: database,
      ...(url.username === '' ? {} : { username: decodeURIComponent(url.username) }),
      ...(url.password === '' ? {} : { password: decodeURIComponent(url.password) }),
    },
  };
}

function addressOptions(url: URL, wrong: (what: string) => PenstockError): AddressOptions {
  const query = url.searchParams;
  const sentinel = url.protocol === 'redis+sentinel:';
  const hosts = hostsOfUrl(url, sentinel ? SENTINEL_PORT : REDIS_PORT);
  const usesTls = url.protocol === 'rediss:' || query.get('tls') === 'true';
  const ca = query.get('ca');
  if (ca !== null && !usesTls) throw wrong('ca needs rediss://, or tls=true with redis+sentinel://');
  const tls = usesTls ? { tls: ca === null ? {} : { ca: readCa(ca) } } : {};
  if (sentinel) {
    const master = query.get('master');
    if (master === null) throw wrong('expected ?master=NAME, the name under which the Sentinels know the master');
    // Sentinels tell of a failover at once; without that it would be noticed when the old master closes the connection.
    return { sentinels: hosts, name: master, failoverDetector: true, enableTLSForSentinelMode: usesTls, ...tls };
  }
  const [first, second] = hosts;
  if (first === undefined || second !== undefined) throw wrong('expected one host; several are for redis+sentinel://');
  return { host: first.host, port: first.port, ...tls };
}

function readCa(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw fromSystemError(error, `the certificate authority ${path}`);
  }
}
