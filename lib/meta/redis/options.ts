/**
 * What a Redis URL says.
 *
 *   redis://user:password@host:port/DB          rediss:// the same over TLS
 *   redis+sentinel://host:port,host:port/DB?master=NAME
 */
import { readFileSync } from 'node:fs';
import type { RedisOptions } from 'ioredis';
import { PenstockError, fromSystemError } from '../../errors.ts';
import { parseDuration } from '../../units.ts';
import { hostsOfUrl, withoutCredentials } from '../../urls.ts';
import { QuietSentinelConnector } from './quiet-sentinel-connector.ts';

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
  | ('Connector' | 'sentinels' | 'name' | 'failoverDetector' | 'enableTLSForSentinelMode')
  | ('sentinelUsername' | 'sentinelPassword' | 'sentinelTLS' | 'sentinelCommandTimeout' | 'connectTimeout')
>;

const DEFAULT_DEADLINE_MS = 10_000;
const REDIS_PORT = 6379;
const SENTINEL_PORT = 26379;
/** A Sentinel, or a master, whose machine is gone answers nothing: the others are asked well within a lease and a deadline. */
const SENTINEL_PATIENCE_MS = 1000;
const SENTINEL_OPTIONS = {
  master: 'the name under which the Sentinels know the master',
  tls: 'true: TLS to the master that Sentinels name',
  sentinelAuth:
    'true: the same user and password to the Sentinels as to the master; without it they are asked as nobody',
  sentinelTls: 'true: TLS to the Sentinels too',
};
const SERVER_OPTIONS = {
  deadline: 'how long a call may take, reconnection included; default 10s',
  durability: 'what a flush waits for: none (the default), wait (replicas) or waitaof (their and the master’s disks)',
  replicas: 'how many replicas wait and waitaof wait for (waitaof: default 0, the master’s disk alone)',
  ca: 'file of the certificate authority, PEM',
  volume: 'which volume of the engine',
};
export const REDIS_OPTIONS: Readonly<Record<'server' | 'sentinel', Readonly<Record<string, string>>>> = {
  server: SERVER_OPTIONS,
  sentinel: { ...SERVER_OPTIONS, ...SENTINEL_OPTIONS },
};
const OPTION_NAMES = Object.keys(REDIS_OPTIONS.sentinel);

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
    client: { ...addressOptions(url, wrong), db: database, ...credentials(url) },
  };
}

function credentials(url: URL): { readonly username?: string; readonly password?: string } {
  return {
    ...(url.username === '' ? {} : { username: decodeURIComponent(url.username) }),
    ...(url.password === '' ? {} : { password: decodeURIComponent(url.password) }),
  };
}

function addressOptions(url: URL, wrong: (what: string) => PenstockError): AddressOptions {
  if (url.protocol === 'redis+sentinel:') return sentinelOptions(url, wrong);
  for (const name of Object.keys(SENTINEL_OPTIONS)) {
    if (url.searchParams.has(name)) throw wrong(`${name} is for redis+sentinel:// only`);
  }
  const ca = url.searchParams.get('ca');
  const usesTls = url.protocol === 'rediss:';
  if (ca !== null && !usesTls) throw wrong('ca needs rediss://');
  const [first, second] = hostsOfUrl(url, REDIS_PORT);
  if (first === undefined || second !== undefined) throw wrong('expected one host; several are for redis+sentinel://');
  return { host: first.host, port: first.port, ...(usesTls ? { tls: tlsOptions(ca) } : {}) };
}

function sentinelOptions(url: URL, wrong: (what: string) => PenstockError): AddressOptions {
  const query = url.searchParams;
  const isSet = (name: string): boolean => {
    const text = query.get(name) ?? 'false';
    if (text !== 'true' && text !== 'false') throw wrong(`${name}=${text}: expected true or false`);
    return text === 'true';
  };
  const master = query.get('master');
  if (master === null) throw wrong('expected ?master=NAME, the name under which the Sentinels know the master');
  const [usesTls, sentinelTls] = [isSet('tls'), isSet('sentinelTls')];
  const ca = query.get('ca');
  if (ca !== null && !usesTls && !sentinelTls) throw wrong('ca needs tls=true or sentinelTls=true');
  const { username, password } = credentials(url);
  const authenticates = isSet('sentinelAuth');
  if (authenticates && password === undefined) throw wrong('sentinelAuth=true needs a password in the URL');
  return {
    Connector: QuietSentinelConnector,
    sentinels: hostsOfUrl(url, SENTINEL_PORT),
    name: master,
    // Sentinels tell of a failover at once; without that it would be noticed when the old master closes the connection.
    failoverDetector: true,
    connectTimeout: SENTINEL_PATIENCE_MS,
    sentinelCommandTimeout: SENTINEL_PATIENCE_MS,
    enableTLSForSentinelMode: usesTls,
    ...(usesTls ? { tls: tlsOptions(ca) } : {}),
    ...(sentinelTls ? { sentinelTLS: tlsOptions(ca) } : {}),
    ...(authenticates && username !== undefined ? { sentinelUsername: username } : {}),
    ...(authenticates && password !== undefined ? { sentinelPassword: password } : {}),
  };
}

function tlsOptions(ca: string | null): { readonly ca?: Buffer } {
  return ca === null ? {} : { ca: readCa(ca) };
}

function readCa(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw fromSystemError(error, `the certificate authority ${path}`);
  }
}
