/**
 * Bearer tokens and who holds them.
 *
 *   {VOLUME}tokens / <SHA-256 of the token, hex>     TokenRecord as JSON
 *   {VOLUME}token-ids / <id>                         that hash
 *
 * A token is 256 random bits, so one round of SHA-256 hides it as well as a slow hash would; it is shown once, when it is made.
 * Invariants: the first administrator's token (PENSTOCK_TOKEN) is taken only while there is none, decided by the engine.
 * What is known of a token is believed as long as the change feed says nothing: a commit that makes or revokes one names its hash there, so it is refused everywhere
 * at once.
 * Failure: while the engine is down, tokens seen within STALE_MS still open the (degraded) page; a token nobody has seen, or that was revoked, does not. A feed
 * that is cut without anybody noticing is no more than FRESH_MS of belief.
 * Limits: TOKENS_MAX tokens, of one tenant its share of them (kept-share.ts).
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import { parseJson, scanJson } from '../../lib/lake/scan.ts';
import type { Key, Minitransaction, Publish } from '../../lib/meta/engine.ts';
import type { Connections } from '../connections.ts';
import { KeptShare } from '../kept-share.ts';
import type { Tenants } from './tenants.ts';

export const ROLES = ['viewer', 'operator', 'admin', 'agent'] as const;
export type Role = (typeof ROLES)[number];

export const tokenSchema = z.object({
  id: z.uuid(),
  /** Whose it is. A token of role `agent` is named by its agent's id, or the ids' beginning and a star, and speaks for those only. */
  name: z.string(),
  role: z.enum(ROLES),
  /** null: of the platform, which sees all tenants. */
  tenant: z.string().nullable().default(null),
  createdMs: z.number(),
  expiresMs: z.number().nullable(),
});
export type TokenRecord = z.output<typeof tokenSchema>;

const TOKENS_MAX = 10_000;
/** An agent with a token of its own asks every ten seconds. */
const FRESH_MS = 15_000;
const STALE_MS = 300_000;
const CACHED_MAX = 4096;
const TOKEN_CHARS_MIN = 20;
const TOKEN_CHARS_MAX = 512;

const hashOf = (token: string): string => createHash('sha256').update(token).digest('hex');

const isPlatformAdmin = ({ role, tenant }: TokenRecord): boolean => role === 'admin' && tenant === null;

interface Cached {
  readonly record: TokenRecord | null;
  readonly atMs: number;
  /** Of the feed, when it was asked for. */
  readonly heard: number;
}

export class Tokens {
  readonly #connections: Connections;
  readonly #clock: Clock;
  readonly #bucket: string;
  readonly #room: KeptShare;
  readonly #cache = new Map<string, Cached>();
  /** Grows with whatever the feed says. */
  #heard = 0;
  #exist: { readonly any: boolean; readonly atMs: number; readonly heard: number } | undefined;

  constructor(connections: Connections, clock: Clock, tenants: Tenants) {
    this.#connections = connections;
    this.#clock = clock;
    this.#bucket = `{${connections.volume}}tokens`;
    this.#room = new KeptShare({
      ...{ what: 'tokens', remedy: 'revoke some', total: TOKENS_MAX, tenants },
      partyOf: (value) => tokenSchema.safeParse(parseJson(value)).data?.tenant ?? null,
    });
    connections.listen({
      onMessage: (message) => {
        this.#heard++;
        this.#cache.delete(message.toString('latin1'));
        this.#exist = undefined;
      },
      // What is known serves on while the engine is down, and is asked for again when it is not.
      onGap: () => this.#heard++,
    });
  }

  /** Whether there is any token: without one, only this machine is served. */
  async any(): Promise<boolean> {
    const nowMs = this.#clock.monotonicMs();
    const heard = this.#heard;
    if (this.#exist?.heard === heard && nowMs - this.#exist.atMs < FRESH_MS) return this.#exist.any;
    try {
      const any = (await this.#connections.engine.count(this.#bucket)) > 0;
      if (heard === this.#heard) this.#exist = { any, atMs: nowMs, heard };
      return any;
    } catch (error) {
      if (this.#exist === undefined || nowMs - this.#exist.atMs > STALE_MS) throw error;
      return this.#exist.any;
    }
  }

  /** null: unknown, revoked or expired. Throws `unavailable` when the engine is down and the token was not seen lately. */
  async find(token: string): Promise<TokenRecord | null> {
    if (token.length > TOKEN_CHARS_MAX) return null;
    const hash = hashOf(token);
    const record = await this.#read(hash);
    if (record === null || (record.expiresMs !== null && record.expiresMs <= this.#clock.nowMs())) return null;
    return record;
  }

  async #read(hash: string): Promise<TokenRecord | null> {
    const nowMs = this.#clock.monotonicMs();
    const cached = this.#cache.get(hash);
    const heard = this.#heard;
    if (cached?.heard === heard && nowMs - cached.atMs < FRESH_MS) return cached.record;
    let record: TokenRecord | null;
    try {
      const [stored] = await this.#connections.engine.read([this.#key(hash)]);
      const parsed = stored == null ? null : tokenSchema.safeParse(parseJson(stored.value));
      record = parsed?.data ?? null;
    } catch (error) {
      if (
        cached?.record != null &&
        nowMs - cached.atMs < STALE_MS &&
        isCode(error, 'unavailable', 'timeout', 'fenced')
      ) {
        return cached.record;
      }
      throw error;
    }
    // It may be what the message was about, as it was before: nothing to believe, least of all while the engine is down.
    if (heard !== this.#heard) return record;
    this.#cache.delete(hash);
    this.#cache.set(hash, { record, atMs: nowMs, heard });
    const oldest = this.#cache.keys().next().value;
    if (this.#cache.size > CACHED_MAX && oldest !== undefined) this.#cache.delete(oldest);
    return record;
  }

  /** The token itself is in the answer and nowhere else; so a repeat (the same id) cannot have it, and throws `exists`. Throws `full`. */
  async create(options: {
    readonly id: string;
    readonly name: string;
    readonly role: Role;
    readonly tenant: string | null;
    readonly expiresMs: number | null;
  }): Promise<{ readonly token: string; readonly record: TokenRecord }> {
    await this.#room.assertRoom(this.#connections.engine, this.#bucket, options.tenant);
    const token = `pst_${randomBytes(32).toString('base64url')}`;
    const record = this.#record(options);
    const { ok } = await this.#connections.engine.commit(this.#creation(token, record));
    if (!ok) {
      throw new PenstockError(
        'exists',
        `an earlier request with this Idempotency-Key made token ${record.id}, which was shown once: revoke it and send another key`,
      );
    }
    this.#heard++;
    return { token, record };
  }

  /** Takes `token` as the first administrator's while there is no token at all. Throws `config` for a weak one. */
  async bootstrap(token: string): Promise<void> {
    if (token.length < TOKEN_CHARS_MIN || token.length > TOKEN_CHARS_MAX) {
      throw new PenstockError('config', `PENSTOCK_TOKEN: expected ${TOKEN_CHARS_MIN} to ${TOKEN_CHARS_MAX} characters`);
    }
    const record = this.#record({
      id: randomUUID(),
      name: 'first administrator',
      role: 'admin',
      tenant: null,
      expiresMs: null,
    });
    const creation = this.#creation(token, record);
    await this.#connections.engine.commit({ ...creation, compare: [{ emptyBucket: this.#bucket }] });
    this.#heard++;
  }

  async list(): Promise<TokenRecord[]> {
    const records: TokenRecord[] = [];
    for await (const [, record] of scanJson(this.#connections.engine, this.#bucket, tokenSchema)) records.push(record);
    return records.sort((a, b) => a.createdMs - b.createdMs);
  }

  /** Throws `not-found`; `conflict` for the platform's last administrator's: nobody could make a token any more. */
  async revoke(id: string, isVisible: (record: TokenRecord) => boolean): Promise<void> {
    const found: (readonly [hash: string, record: TokenRecord])[] = [];
    for await (const entry of scanJson(this.#connections.engine, this.#bucket, tokenSchema)) found.push(entry);
    const entry = found.find(([, record]) => record.id === id);
    if (entry === undefined || !isVisible(entry[1])) throw new PenstockError('not-found', `there is no token ${id}`);
    const admins = found.filter(([, record]) => isPlatformAdmin(record));
    if (isPlatformAdmin(entry[1]) && admins.length === 1) {
      throw new PenstockError('conflict', 'this is the last token of an administrator: make another one first', {
        retryable: false,
      });
    }
    const keys = [this.#key(entry[0]), this.#idKey(id)];
    await this.#connections.engine.commit({
      write: keys.map((key) => ({ key, value: null })),
      publish: [this.#message(entry[0])],
    });
    this.#heard++;
    this.#cache.delete(entry[0]);
  }

  #record(options: Omit<TokenRecord, 'createdMs'>): TokenRecord {
    return { createdMs: this.#clock.nowMs(), ...options };
  }

  #key(hash: string): Key {
    return { bucket: this.#bucket, field: hash };
  }

  #idKey(id: string): Key {
    return { bucket: `{${this.#connections.volume}}token-ids`, field: id };
  }

  #message(hash: string): Publish {
    return { shard: this.#connections.feedShard, message: Buffer.from(hash, 'latin1') };
  }

  #creation(token: string, record: TokenRecord): Minitransaction {
    const hash = hashOf(token);
    const idKey = this.#idKey(record.id);
    return {
      compare: [{ key: idKey, version: null }],
      write: [
        { key: this.#key(hash), value: Buffer.from(JSON.stringify(record)) },
        { key: idKey, value: Buffer.from(hash) },
      ],
      publish: [this.#message(hash)],
      operation: randomUUID(),
    };
  }
}
