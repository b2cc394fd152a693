/** The pieces of agent.yaml that several sources share. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { z } from 'zod';
import { describeError, PenstockError } from '../lib/errors.ts';
import { ALARM_PRIORITY } from './spool/frame.ts';

/** Kafka's rule for topic names. */
export const topic = z
  .string()
  .max(249)
  .regex(/^[A-Za-z0-9._-]+$/, 'expected a topic name: letters, digits, dots, _ and -');

/** The default lies in the middle, so that a source can be put above or below the others. */
export const priority = z.int().min(0).max(ALARM_PRIORITY).default(4);

export const listenAddress = z
  .string()
  .refine((text) => Number(/^.+:(\d{1,5})$/.exec(text)?.[1] ?? NaN) <= 65_535, 'expected HOST:PORT, as 127.0.0.1:9100');

/** A field of the value with epoch ms, epoch us or RFC 3339; where a reading lacks it, the time of arrival stands in. */
export const eventTime = z.string().min(1).default('ts');

/** The files of a server that speaks TLS. */
export const serverTls = z.strictObject({
  cert: z.string().min(1),
  key: z.string().min(1),
  /** With it, clients must show a certificate that it signed. */
  clientCa: z.string().min(1).optional(),
});
export type ServerTls = z.output<typeof serverTls>;

/** The URL of a server: its scheme (with the port that is meant where none stands there), a host, maybe a port, and nothing else. */
export function serverUrl(ports: Readonly<Record<string, number>>, expected: string): z.ZodType<string, string> {
  return z.string().superRefine((text, context) => {
    const url = URL.parse(text);
    const problem =
      url === null || !(url.protocol in ports) || url.hostname === ''
        ? `expected ${expected}`
        : url.username !== '' || url.password !== ''
          ? 'a user and password do not belong into the URL: expected the keys `user` and `passwordFile`'
          : !['', '/'].includes(url.pathname) || url.search !== ''
            ? 'expected nothing behind host and port'
            : null;
    if (problem !== null) context.addIssue({ code: 'custom', message: problem });
  });
}

/** Of a `serverUrl`. Sources are compared by it also where one of them has no URL there, which is refused beside that: it is like no other then. */
export function serverAddress(text: string, ports: Readonly<Record<string, number>>): { host: string; port: number } {
  const url = URL.parse(text);
  if (url === null) return { host: text, port: 0 };
  const port = url.port === '' ? (ports[url.protocol] ?? 0) : Number(url.port);
  return { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port };
}

/** HOST:PORT, with an IPv6 address in brackets or not. */
export function hostAndPort(address: string): { readonly host: string; readonly port: number } {
  const separator = address.lastIndexOf(':');
  return {
    host: address.slice(0, separator).replace(/^\[(.*)\]$/, '$1'),
    port: Number(address.slice(separator + 1)),
  };
}

/** A file that the configuration names by `key`. Throws `config`. */
export async function configuredFile(baseDir: string, path: string, key: string): Promise<Buffer> {
  try {
    return await readFile(resolve(baseDir, path));
  } catch (error) {
    throw new PenstockError('config', `${key}: cannot read ${path}: ${describeError(error)}`, { cause: error });
  }
}

export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca?: Buffer;
  readonly requestCert: boolean;
  readonly handshakeTimeout: number;
}

/** Node's own two minutes would keep a place in `maxConnections` as long for who connects and says nothing. */
const HANDSHAKE_TIMEOUT_MS = 10_000;

export async function serverTlsFiles(baseDir: string, { cert, key, clientCa }: ServerTls): Promise<TlsFiles> {
  return {
    cert: await configuredFile(baseDir, cert, 'tls.cert'),
    key: await configuredFile(baseDir, key, 'tls.key'),
    ...(clientCa === undefined ? {} : { ca: await configuredFile(baseDir, clientCa, 'tls.clientCa') }),
    requestCert: clientCa !== undefined,
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  };
}
