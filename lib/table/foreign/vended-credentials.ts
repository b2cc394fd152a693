/**
 * The S3 credentials of one table that its catalog hands out (`storage-credentials`, or the older keys of `config`; schemas LoadTableResult
 * and LoadCredentialsResponse of Iceberg's `open-api/rest-catalog-open-api.yaml`).
 *
 * Owns: those that were asked for last. Callers of one instant wait for one request. No message holds a secret.
 * Failure: while the catalog does not answer, the ones that are held serve until they end.
 * Limits: they are asked for anew after RENEW_AT of their life, or when the store no longer takes them; AGAIN_MS after an attempt that failed.
 */
import { z } from 'zod';
import type { Clock } from '../../clock.ts';
import type { StoreCredentials } from '../../store/store.ts';

const RENEW_AT = 0.8;
const AGAIN_MS = 2000;
/** Of credentials whose end is not told: the shortest that AWS gives. */
const LIFE_MS_DEFAULT = 900_000;
/** By our clock they have ended: it may be wrong, and the store says so if not. */
const LIFE_MS_MIN = 1000;

const propertiesSchema = z.record(z.string(), z.string());
const answerSchema = z.looseObject({
  config: propertiesSchema.nullish(),
  'storage-credentials': z.array(z.looseObject({ prefix: z.string(), config: propertiesSchema })).nullish(),
});

export interface VendedCredentials extends StoreCredentials {
  /** By the wall clock; null: not told. */
  readonly expiresMs: number | null;
}

/** null: the answer has none for what lies at `location`. */
export function vendedIn(answer: unknown, location: string): VendedCredentials | null {
  const parsed = answerSchema.safeParse(answer);
  if (!parsed.success) return null;
  const given = (parsed.data['storage-credentials'] ?? [])
    .filter(({ prefix }) => `${location}/`.startsWith(prefix))
    .sort((a, b) => b.prefix.length - a.prefix.length);
  for (const properties of [...given.map(({ config }) => config), parsed.data.config ?? {}]) {
    const accessKeyId = properties['s3.access-key-id'];
    const secretAccessKey = properties['s3.secret-access-key'];
    if (!accessKeyId || !secretAccessKey) continue;
    const sessionToken = properties['s3.session-token'];
    const expires = properties['s3.session-token-expires-at-ms'] ?? '';
    return {
      accessKeyId,
      secretAccessKey,
      ...(sessionToken !== undefined && { sessionToken }),
      expiresMs: /^\d{1,15}$/.test(expires) ? Number(expires) : null,
    };
  }
  return null;
}

interface Held {
  readonly credentials: StoreCredentials;
  readonly endsMs: number;
  renewAtMs: number;
}

export class VendedSource {
  readonly #ask: () => Promise<VendedCredentials>;
  readonly #clock: Clock;
  #held: Held | undefined;
  #asking: Promise<Held> | undefined;

  constructor(ask: () => Promise<VendedCredentials>, clock: Clock) {
    this.#ask = ask;
    this.#clock = clock;
  }

  /** Throws what the catalog's client throws. */
  async get(): Promise<StoreCredentials> {
    const held = this.#held;
    if (held !== undefined && this.#clock.monotonicMs() < held.renewAtMs) return held.credentials;
    this.#asking ??= this.#renew().finally(() => (this.#asking = undefined));
    try {
      return (await this.#asking).credentials;
    } catch (error) {
      const nowMs = this.#clock.monotonicMs();
      if (held === undefined || nowMs >= held.endsMs) throw error;
      held.renewAtMs = Math.min(held.endsMs, nowMs + AGAIN_MS);
      return held.credentials;
    }
  }

  /** The store no longer takes them: the next `get` asks, unless others came meanwhile. */
  refuse(credentials: StoreCredentials): void {
    if (this.#held?.credentials === credentials) this.#held = undefined;
  }

  async #renew(): Promise<Held> {
    const { expiresMs, ...credentials } = await this.#ask();
    const lifeMs = expiresMs === null ? LIFE_MS_DEFAULT : Math.max(LIFE_MS_MIN, expiresMs - this.#clock.nowMs());
    const nowMs = this.#clock.monotonicMs();
    this.#held = { credentials, endsMs: nowMs + lifeMs, renewAtMs: nowMs + lifeMs * RENEW_AT };
    return this.#held;
  }
}
