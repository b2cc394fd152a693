/**
 * The bearer token of a catalog's client: out of a file that somebody renews, or asked for by OAuth 2.0 client credentials (RFC 6749, section 4.4),
 * as the clients of Iceberg's REST catalogs do.
 *
 * Owns: the token that was asked for last. Callers of one instant wait for one request.
 * Failure: a credential that is refused is `denied` with the server's reason, a file that cannot be read `config`, no answer `unavailable`. No message
 * holds a secret.
 * Limits: a token is asked for anew after RENEW_AT of its life, or when the catalog no longer takes it; TIME_MS a request, ANSWER_BYTES_MAX an
 * answer.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { boundedText } from '../../bounded-text.ts';
import { describeError, isCode, PenstockError } from '../../errors.ts';

const TIME_MS = 30_000;
/** A token of many claims and groups has tens of thousands. */
const ANSWER_BYTES_MAX = 1 << 20;
const RENEW_AT = 0.8;
/** RFC 6749 lets a server leave it out; Iceberg's own clients take an hour, too. */
const LIFE_S_DEFAULT = 3600;

export interface TokenOptions {
  /** Read again for every request, so that it may be renewed. */
  readonly tokenFile?: string | undefined;
  /** Holds `CLIENT_ID:CLIENT_SECRET`; read again for every token. */
  readonly credentialFile?: string | undefined;
  /** Where tokens are asked for; default: the catalog's own `/v1/oauth/tokens`. */
  readonly oauthUri?: string | undefined;
  /** What is asked for, words with spaces between; default: `catalog`. */
  readonly scope?: string | undefined;
}

const tokenSchema = z.looseObject({
  access_token: z.string().min(1),
  token_type: z.string().regex(/^bearer$/i),
  expires_in: z.number().positive().optional(),
});
const refusalSchema = z.looseObject({ error: z.string(), error_description: z.string().optional() });

interface HeldToken {
  readonly token: string;
  readonly renewAtMs: number;
}

export class CatalogToken {
  readonly #options: TokenOptions;
  readonly #oauthUri: string;
  #held: HeldToken | undefined;
  #asking: Promise<HeldToken> | undefined;

  /** `catalogUri` without a slash at its end. */
  constructor(catalogUri: string, options: TokenOptions) {
    this.#options = options;
    this.#oauthUri = options.oauthUri ?? `${catalogUri}/v1/oauth/tokens`;
  }

  /** Whether a refused token can be replaced by asking. */
  get isAskedFor(): boolean {
    return this.#options.credentialFile !== undefined;
  }

  /** null: the catalog is asked without one. `refused`: a token that the catalog no longer takes. */
  async get(refused?: string): Promise<string | null> {
    const { tokenFile, credentialFile } = this.#options;
    if (tokenFile !== undefined) return readSecret(tokenFile, 'tokenFile');
    if (credentialFile === undefined) return null;
    const held = this.#held;
    if (held !== undefined && held.token !== refused && performance.now() < held.renewAtMs) return held.token;
    this.#asking ??= this.#ask(credentialFile).finally(() => (this.#asking = undefined));
    this.#held = await this.#asking;
    return this.#held.token;
  }

  async #ask(credentialFile: string): Promise<HeldToken> {
    const [id = '', ...rest] = (await readSecret(credentialFile, 'credentialFile')).split(':');
    const secret = rest.join(':');
    if (id === '' || secret === '') {
      throw new PenstockError('config', `catalog.credentialFile: ${credentialFile} must hold CLIENT_ID:CLIENT_SECRET`);
    }
    const { scope = 'catalog' } = this.#options;
    const form = { grant_type: 'client_credentials', client_id: id, client_secret: secret, scope };
    let response: Response;
    let text: string;
    try {
      response = await fetch(this.#oauthUri, {
        method: 'POST',
        headers: { accept: 'application/json' },
        body: new URLSearchParams(form),
        signal: AbortSignal.timeout(TIME_MS),
        redirect: 'error',
      });
      text = await boundedText(response, ANSWER_BYTES_MAX);
    } catch (error) {
      if (isCode(error, 'too-large')) throw error;
      throw new PenstockError('unavailable', `no token from ${this.#oauthUri}: ${describeError(error)}`, {
        cause: error,
      });
    }
    const body = jsonOf(text);
    if (!response.ok) throw refusal(this.#oauthUri, response.status, body);
    const answer = tokenSchema.safeParse(body);
    if (!answer.success) {
      throw new PenstockError('unsupported', `${this.#oauthUri} answers with no bearer token (catalog.oauthUri)`);
    }
    const { access_token: token, expires_in: lifeS = LIFE_S_DEFAULT } = answer.data;
    return { token, renewAtMs: performance.now() + lifeS * 1000 * RENEW_AT };
  }
}

/** undefined: it is none. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(uri: string, status: number, body: unknown): PenstockError {
  const said = refusalSchema.safeParse(body);
  const reason = said.success ? [said.data.error, said.data.error_description].filter(Boolean).join(': ') : '';
  const code = status >= 500 || status === 429 ? 'unavailable' : 'denied';
  return new PenstockError(code, `no token from ${uri}: ${status} ${reason} (catalog.credentialFile, catalog.scope)`);
}

async function readSecret(path: string, key: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    throw new PenstockError('config', `catalog.${key}: ${path} cannot be read`, { cause: error });
  }
}
