/** `kafka://h:p,h:p?tls=true&ca=FILE&sasl=scram-sha-512&user=U&passwordFile=F&client=kafkajs`: what it says, checked. */
import { readFileSync } from 'node:fs';
import { PenstockError, fromSystemError } from '../../errors.ts';
import { hostsOfUrl, type HostPort } from '../../urls.ts';

const DEFAULT_PORT = 9092;
const CLIENTS = ['kafkajs', 'platformatic'] as const;
const MECHANISMS = ['plain', 'scram-sha-256', 'scram-sha-512'] as const;
const OPTIONS = ['tls', 'ca', 'sasl', 'user', 'passwordFile', 'client'];

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

/** Reads the files that the URL names. Throws `config`, and for the files `not-found` or `denied`. */
export function parseKafkaUrl(url: URL): KafkaOptions {
  const refuse = (flaw: string): never => {
    throw new PenstockError('config', `kafka://${decodeURIComponent(url.host)}: ${flaw}`);
  };
  const given = url.searchParams;
  for (const key of given.keys()) {
    if (!OPTIONS.includes(key)) refuse(`unknown option '${key}', expected one of ${OPTIONS.join(', ')}`);
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
  if (mechanism === 'none') {
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
