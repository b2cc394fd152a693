/**
 * People and services that an OpenID Connect provider vouches for: JWTs as bearer tokens (RFC 9068, RFC 8725).
 *
 * A token is taken when a key of the issuer signed it with an asymmetric algorithm, issuer and audience are the configured ones, and now is
 * between `nbf` and `exp` (a minute of tolerance). Its role is the highest that a value of `claim` stands for; without one it is known and
 * may do nothing; so is somebody whose tenant is not told, where tenants are.
 * Invariants: a token never chooses its key's place or its algorithm class; an HMAC or unsigned token is refused whatever it says.
 * Failure: while the issuer is away its keys serve on for KEYS_STALE_MS; without any, `unavailable`. A key that is not known is asked for at
 * most every COOLDOWN_MS, so that forged key ids do not become requests to the issuer.
 * Limits: REQUEST_MS a request, ANSWER_BYTES_MAX an answer.
 */
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  customFetch,
  errors,
  jwtVerify,
  type FetchImplementation,
  type JWTPayload,
  type JWTVerifyGetKey,
} from 'jose';
import { z } from 'zod';
import { boundedText } from '../../lib/bounded-text.ts';
import type { Clock } from '../../lib/clock.ts';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { Principal } from './guard.ts';

const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'];
const TOLERANCE_SECONDS = 60;
const REQUEST_MS = 5000;
/** Of some kilobytes with a dozen keys and their certificates. */
const ANSWER_BYTES_MAX = 1 << 20;
const COOLDOWN_MS = 10_000;
const KEYS_FRESH_MS = 600_000;
const KEYS_STALE_MS = 3_600_000;
const TOKEN_CHARS_MAX = 8192;
/** Highest first. */
const ROLES = ['admin', 'operator', 'viewer'] as const;

type OidcConfig = NonNullable<PipelineConfig['serve']['oidc']>;

const discoverySchema = z.object({ issuer: z.string(), jwks_uri: z.url() });

export class Oidc {
  readonly #config: OidcConfig;
  readonly #clock: Clock;
  #keys: Promise<JWTVerifyGetKey> | undefined;

  constructor(config: OidcConfig, clock: Clock) {
    this.#config = config;
    this.#clock = clock;
  }

  /** null: not a token of the issuer for us, or not valid now. Throws `unavailable` when its keys cannot be had. */
  async find(token: string): Promise<Principal | null> {
    if (token.length > TOKEN_CHARS_MAX) return null;
    const { issuer, audience } = this.#config;
    try {
      const { payload } = await jwtVerify(token, await this.#issuerKeys(), {
        issuer,
        audience,
        algorithms: ALGORITHMS,
        requiredClaims: ['exp', 'sub'],
        clockTolerance: TOLERANCE_SECONDS,
        currentDate: new Date(this.#clock.nowMs()),
      });
      const tenant = this.#tenantOf(payload);
      return {
        name: `${payload.sub ?? ''}@${new URL(issuer).host}`,
        role: tenant === undefined ? 'none' : this.#roleOf(payload),
        tenant: tenant ?? null,
      };
    } catch (error) {
      if (isOfToken(error)) return null;
      throw new PenstockError('unavailable', `the keys of the issuer ${issuer} cannot be had`, { cause: error });
    }
  }

  #roleOf(payload: JWTPayload): Principal['role'] {
    const { claim, roles } = this.#config;
    const given = payload[claim];
    const values = new Set<unknown>(typeof given === 'string' ? given.split(' ') : Array.isArray(given) ? given : []);
    return ROLES.find((role) => roles[role].some((value) => values.has(value))) ?? 'none';
  }

  /** null: of the platform; undefined: the token does not say, or says several. */
  #tenantOf(payload: JWTPayload): string | null | undefined {
    const { tenant } = this.#config;
    if (tenant === undefined) return null;
    let given: unknown = payload;
    for (const name of [tenant.claim].flat())
      given = isObject(given) && Object.hasOwn(given, name) ? given[name] : null;
    const values: unknown[] = [given].flat();
    if (values.length !== 1 || typeof values[0] !== 'string') return undefined;
    return values[0] === tenant.platform ? null : values[0];
  }

  #issuerKeys(): Promise<JWTVerifyGetKey> {
    // A failed attempt is not kept: the next request asks again.
    this.#keys ??= this.#discover().catch((error: unknown) => {
      this.#keys = undefined;
      throw error;
    });
    return this.#keys;
  }

  /** OpenID Connect Discovery 1.0, section 4. */
  async #discover(): Promise<JWTVerifyGetKey> {
    const { issuer } = this.#config;
    const url = `${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`;
    const response = await fetch(url, { signal: AbortSignal.timeout(REQUEST_MS), redirect: 'error' });
    if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
    const document = discoverySchema.parse(JSON.parse(await boundedText(response, ANSWER_BYTES_MAX)));
    if (document.issuer !== issuer) throw new Error(`${url} is of the issuer ${document.issuer}`);
    const remote = createRemoteJWKSet(new URL(document.jwks_uri), {
      timeoutDuration: REQUEST_MS,
      cooldownDuration: COOLDOWN_MS,
      cacheMaxAge: KEYS_FRESH_MS,
      [customFetch]: fetchBounded,
    });
    let freshMs = -Infinity;
    return async (header, token) => {
      try {
        const key = await remote(header, token);
        freshMs = this.#clock.monotonicMs();
        return key;
      } catch (error) {
        const known = remote.jwks();
        const isUsable = known !== undefined && this.#clock.monotonicMs() - freshMs < KEYS_STALE_MS;
        if (isOfToken(error) || !isUsable) throw error;
        return createLocalJWKSet(known)(header, token);
      }
    };
  }
}

const fetchBounded: FetchImplementation = async (url, options) => {
  const response = await fetch(url, options);
  const { status, headers } = response;
  return new Response(await boundedText(response, ANSWER_BYTES_MAX), { status, headers });
};

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Whether the token is at fault, not the way to the issuer's keys. */
function isOfToken(error: unknown): boolean {
  const { JOSEError, JWKSTimeout, JWKSInvalid } = errors;
  // The base class itself is what the library throws when the issuer does not answer with 200 and JSON.
  return (
    error instanceof JOSEError &&
    error.code !== JOSEError.code &&
    !(error instanceof JWKSTimeout) &&
    !(error instanceof JWKSInvalid)
  );
}
