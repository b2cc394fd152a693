/** `kafka://h:p,h:p?tls=true&ca=FILE&sasl=scram-sha-512&user=U&passwordFile=F&client=kafkajs`: what it says, checked. */
import { readFileSync } from 'node:fs';
import { PenstockError, fromSystemError } from '../../errors.ts';
import { hostsOfUrl, type HostPort } from '../../urls.ts';

const DEFAULT_PORT = 9092;
const CLIENTS = ['kafkajs', 'platformatic'] as const;
const MECHANISMS = ['plain', 'scram-sha-256', 'scram-sha-512'] as const;
export const KAFKA_OPTIONS: Readonly<Record<string, string>> = {
  tls: 'true or false (the default)',
  ca: 'file of the certificate authority, PEM; default: those that Node trusts',
  sasl: 'plain, scram-sha-256 or scram-sha-512; default none',
  user: 'with sasl',
  passwordFile: 'with sasl',
  client: 'kafkajs (the default) or platformatic',
};

export interface SaslOptions {
  readonly mechanism: (typeof MECHANISMS)[number];
  readonly user: string;
  readonly password: string;
}

export interface KafkaOptions {
  readonly url: string;
  /** Where to ask first; the rest of the cluster is in the answer. */
  readonly bootstrap: readonly HostPort[];
  /** `ca` null: the certificate authorities that Node trusts. */
  readonly tls: { readonly ca: Buffer | null } | null;
  readonly sasl: SaslOptions | null;
  readonly client: (typeof CLIENTS)[number];
}

/** Reads the files that the URL names. `login`: instead of them. Throws `config`, and for the files `not-found` or `denied`. */
export function parseKafkaUrl(url: URL, login?: { readonly user: string; readonly password: string }): KafkaOptions {
  const refuse = (flaw: string): never => {
    throw new PenstockError('config', `kafka://${decodeURIComponent(url.host)}: ${flaw}`);
  };
  const given = url.searchParams;
  for (const key of given.keys()) {
    if (!Object.hasOwn(KAFKA_OPTIONS, key)) {
      refuse(`unknown option '${key}', expected one of ${Object.keys(KAFKA_OPTIONS).join(', ')}`);
    }
    if (given.getAll(key).length > 1) refuse(`option '${key}' is given twice`);
  }
  if (url.username !== '' || url.password !== '') refuse('user and password belong into user= and passwordFile=');
  if (url.host === '') refuse('no broker is named, expected kafka://host:port');
  if (!['', '/'].includes(url.pathname)) refuse(`'${url.pathname}' behind the brokers means nothing`);
  const choice = <T extends string>(key: string, choices: readonly T[], fallback: T): T => {
    const value = given.get(key) ?? fallback;
    return choices.find((known) => known === value) ?? refuse(`${key}=${value}, expected ${choices.join(' or ')}`);
  };
  const tls = choice('tls', ['true', 'false'], 'false') === 'true';
  const ca = given.get('ca');
  if (ca !== null && !tls) refuse('ca= without tls=true');
  const mechanism = choice('sasl', ['none', ...MECHANISMS], 'none');
  const user = given.get('user');
  const passwordFile = given.get('passwordFile');
  let sasl: SaslOptions | null = null;
  if (login !== undefined) {
    if (mechanism === 'none') return refuse(`user and password need sasl=${MECHANISMS.join(' or ')}`);
    sasl = { mechanism, ...login };
  } else if (mechanism === 'none') {
    if (user !== null || passwordFile !== null) refuse(`user= and passwordFile= need sasl=${MECHANISMS.join(' or ')}`);
  } else {
    if (user === null || passwordFile === null) return refuse(`sasl=${mechanism} needs user= and passwordFile=`);
    sasl = {
      mechanism,
      user,
      password: readFile(passwordFile, 'the password file')
        .toString()
        .replace(/\r?\n$/, ''),
    };
  }
  return {
    url:
      decodeURIComponent(url.host) === url.host ? url.href : url.href.replace(url.host, decodeURIComponent(url.host)),
    bootstrap: hostsOfUrl(url, DEFAULT_PORT),
    tls: tls ? { ca: ca === null ? null : readFile(ca, 'the certificate authority') } : null,
    sasl,
    client: choice('client', CLIENTS, 'kafkajs'),
  };
}

function readFile(path: string, what: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw fromSystemError(error, `cannot read ${what}`);
  }
}
