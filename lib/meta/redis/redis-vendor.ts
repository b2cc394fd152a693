/**
 * Redis' own commands that look and change nothing, for `POST /v1/connections/{name}/call`.
 *
 * Invariants: a command is one of COMMANDS, with arguments of its form; none of them returns settings (which hold passwords), other clients' names, or values.
 */
import net from 'node:net';
import tls from 'node:tls';
import { AbstractConnector, Redis, type RedisOptions } from 'ioredis';
import { z } from 'zod';
import { PenstockError } from '../../errors.ts';
import { hostsOfUrl, serverNameOf } from '../../urls.ts';
import { type VendorCall, vendorOf } from '../../vendor.ts';
import { fromRedisError } from './connection.ts';
import { parseOptions } from './options.ts';

const CONNECT_MS = 5000;
const COMMAND_MS = 8000;
const REDIS_PORT = 6379;
/** An element of a reply has more bytes around it than in JSON. */
const WIRE_FACTOR = 4;

interface Client {
  readonly redis: Redis;
  readonly url: string;
  readonly bytesMax: number;
}

const key = z.string().min(1).max(1024);
const ofKey = z.strictObject({ key });

function call<T extends z.ZodType<Readonly<Record<string, unknown>>>>(
  command: string,
  summary: string,
  parameters: T,
  argumentsOf: (parameters: z.output<T>) => readonly (string | number)[],
): VendorCall<Client> {
  return {
    summary,
    changes: false,
    parameters,
    run: async ({ redis, url, bytesMax }, given) => {
      const [name = '', ...sub] = command.split(' ');
      try {
        const reply = await redis.call(name, ...sub, ...argumentsOf(parameters.parse(given)));
        if (JSON.stringify(reply).length > bytesMax) {
          throw new PenstockError('too-large', `an answer of more than ${bytesMax} bytes`);
        }
        return { reply };
      } catch (error) {
        throw fromRedisError(error, url);
      }
    },
  };
}

const bare = (command: string, summary: string): VendorCall<Client> =>
  call(command, summary, z.strictObject({}), () => []);
const keyed = (command: string, summary: string): VendorCall<Client> =>
  call(command, summary, ofKey, ({ key: name }) => [name]);

export const redisVendor = vendorOf<Client>({
  credentials: ['username', 'password'],
  calls: {
    PING: bare('PING', 'Whether it answers'),
    INFO: call(
      'INFO',
      'What the server says of itself, by section',
      z.strictObject({
        section: z
          .string()
          .regex(/^[a-z_]{1,32}$/)
          .default('default'),
      }),
      ({ section }) => [section],
    ),
    DBSIZE: bare('DBSIZE', 'Number of keys of the database'),
    LASTSAVE: bare('LASTSAVE', 'When it was last saved to disk'),
    ROLE: bare('ROLE', 'Master or replica, and how far'),
    TIME: bare('TIME', 'Its clock'),
    'MEMORY STATS': bare('MEMORY STATS', 'Where its memory is'),
    'MEMORY USAGE': keyed('MEMORY USAGE', 'Bytes that a key takes'),
    'OBJECT ENCODING': keyed('OBJECT ENCODING', 'How a key is kept'),
    'SLOWLOG LEN': bare('SLOWLOG LEN', 'Number of slow commands that it remembers'),
    'LATENCY LATEST': bare('LATENCY LATEST', 'The last latency spikes'),
    SCAN: call(
      'SCAN',
      'Names of keys, page by page',
      z.strictObject({
        cursor: z
          .string()
          .regex(/^\d{1,20}$/)
          .default('0'),
        match: z.string().max(1024).default('*'),
        count: z.int().min(1).max(1000).default(100),
      }),
      ({ cursor, match, count }) => [cursor, 'MATCH', match, 'COUNT', count],
    ),
    EXISTS: keyed('EXISTS', 'Whether a key is there'),
    TYPE: keyed('TYPE', 'The type of a key'),
    PTTL: keyed('PTTL', 'Milliseconds until a key expires'),
    STRLEN: keyed('STRLEN', 'Bytes of a string'),
    HLEN: keyed('HLEN', 'Fields of a hash'),
    LLEN: keyed('LLEN', 'Length of a list'),
    SCARD: keyed('SCARD', 'Members of a set'),
    ZCARD: keyed('ZCARD', 'Members of a sorted set'),
  },
  hosts: (url) => {
    if (url.searchParams.has('ca'))
      throw new PenstockError('config', 'ca: a connection may not name files of the server');
    parseOptions(url);
    return hostsOfUrl(url, REDIS_PORT).map(({ host }) => host);
  },
  probe: ({ redis }) => redis.ping(),
  open: async (url, { credentials, lookup, bytesMax }, signal, use) => {
    const { username, password } = credentials;
    const options = parseOptions(url);
    let lastError: unknown;
    const redis = new Redis({
      ...options.client,
      Connector: connectorWith(lookup),
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      lazyConnect: true,
      connectTimeout: CONNECT_MS,
      commandTimeout: COMMAND_MS,
      maxRetriesPerRequest: 0,
      enableReadyCheck: false,
      retryStrategy: () => null,
    });
    redis.on('error', (error: unknown) => (lastError = error));
    // A server that announces gigabytes would have them kept until they are all there.
    redis.on('connect', () => {
      const { stream } = redis;
      let received = 0;
      stream.on('data', (chunk: Buffer) => {
        received += chunk.length;
        if (received <= WIRE_FACTOR * bytesMax) return;
        // Not a polite end, during which more comes.
        stream.destroy(new PenstockError('too-large', `an answer of more than ${WIRE_FACTOR * bytesMax} bytes`));
      });
    });
    const abort = (): void => redis.disconnect();
    signal.addEventListener('abort', abort, { once: true });
    try {
      await redis.connect();
      return await use({ redis, url: options.url, bytesMax });
    } catch (error) {
      if (signal.aborted) throw new PenstockError('timeout', `${options.url} took too long`, { cause: error });
      throw fromRedisError(lastError ?? error, options.url);
    } finally {
      signal.removeEventListener('abort', abort);
      redis.disconnect();
    }
  },
});

/** ioredis' own connector hands no `lookup` on. */
function connectorWith(lookup: net.LookupFunction): NonNullable<RedisOptions['Connector']> {
  return class extends AbstractConnector {
    readonly #options: Pick<RedisOptions, 'host' | 'port' | 'tls'>;

    constructor(options: unknown) {
      super(CONNECT_MS);
      this.#options = options as RedisOptions; // ioredis hands on its own, and types that as unknown
    }

    override async connect(): Promise<net.Socket> {
      const { host = '', port = REDIS_PORT, tls: secure } = this.#options;
      this.connecting = true;
      const to = { host, port, lookup };
      this.stream = secure === undefined ? net.connect(to) : tls.connect({ ...secure, ...to, ...serverNameOf(host) });
      this.stream.once('error', (error: Error) => (this.firstError = error));
      return this.stream;
    }
  };
}
