/**
 * The requests of the Iceberg REST catalog, as a client: `open-api/rest-catalog-open-api.yaml` of apache/iceberg.
 *
 * Failure: no answer, or one of the 500s, is `unavailable`: a change that was asked for may have been made. Credentials that are refused
 * are `denied`, other refusals `unsupported` with the catalog's own words; 404 and 409 are answers.
 * Limits: TIME_MS a request, ANSWER_BYTES_MAX an answer.
 */
import { z } from 'zod';
import { boundedText } from '../../bounded-text.ts';
import { describeError, PenstockError } from '../../errors.ts';
import { parseJson, stringifyJson } from '../json.ts';
import { CatalogToken, type TokenOptions } from './catalog-token.ts';

const TIME_MS = 30_000;
/** Metadata of a table with tens of thousands of snapshots. */
const ANSWER_BYTES_MAX = 256 << 20;
/** The specification's second one is for a token that has run out. Nothing was done. */
const TOKEN_REFUSED: ReadonlySet<number> = new Set([401, 419]);

export interface RestCatalogOptions extends TokenOptions {
  readonly uri: string;
  /** What the catalog calls it; asked for with the configuration. */
  readonly warehouse?: string | undefined;
  /** How the catalog is to give access to the objects of its tables (`X-Iceberg-Access-Delegation`). */
  readonly accessDelegation?: 'vended-credentials' | undefined;
}

export interface RestAnswer {
  /** 200, 204, 404 or 409. */
  readonly status: number;
  readonly body: unknown;
  /** What the catalog says of a 404 or 409. */
  readonly message: string;
}

const configSchema = z.looseObject({
  defaults: z.record(z.string(), z.unknown()).default({}),
  overrides: z.record(z.string(), z.unknown()).default({}),
});
const errorSchema = z.looseObject({ error: z.looseObject({ message: z.string(), type: z.string().optional() }) });

export class RestClient {
  readonly #options: RestCatalogOptions;
  readonly #base: string;
  readonly #token: CatalogToken;
  #prefix: Promise<string> | undefined;

  constructor(options: RestCatalogOptions) {
    this.#options = options;
    this.#base = options.uri.replace(/\/+$/, '');
    this.#token = new CatalogToken(this.#base, options);
  }

  get uri(): string {
    return this.#base;
  }

  /** `path` below `/v1/{prefix}/`. Throws `unavailable`, `denied`, `unsupported`. */
  async request(method: 'GET' | 'POST', path: string, body?: unknown): Promise<RestAnswer> {
    this.#prefix ??= this.#readPrefix();
    // What failed is asked for again by the next request.
    this.#prefix.catch(() => (this.#prefix = undefined));
    return this.#send(method, `/v1/${await this.#prefix}${path}`, body);
  }

  async #readPrefix(): Promise<string> {
    const { warehouse } = this.#options;
    const query = warehouse === undefined ? '' : `?warehouse=${encodeURIComponent(warehouse)}`;
    const { body } = await this.#send('GET', `/v1/config${query}`);
    const config = configSchema.safeParse(body);
    if (!config.success)
      throw new PenstockError('unsupported', `${this.#base}/v1/config is no Iceberg REST catalog's answer`);
    const prefix = config.data.overrides['prefix'] ?? config.data.defaults['prefix'];
    return typeof prefix === 'string' && prefix !== '' ? `${prefix.split('/').map(encodeURIComponent).join('/')}/` : '';
  }

  async #send(method: string, path: string, body?: unknown): Promise<RestAnswer> {
    const token = await this.#token.get();
    let sent = await this.#fetch(method, path, token, body);
    if (token !== null && this.#token.isAskedFor && TOKEN_REFUSED.has(sent.response.status)) {
      sent = await this.#fetch(method, path, await this.#token.get(token), body);
    }
    const { response, text } = sent;
    const what = `${method} ${this.#base}${path}`;
    const { status } = response;
    const parsed = parse(text);
    const refusal = errorSchema.safeParse(parsed);
    const message = refusal.success ? refusal.data.error.message : text.slice(0, 300);
    if (response.ok || status === 404 || status === 409) {
      if (response.ok && text !== '' && parsed === undefined)
        throw new PenstockError('unsupported', `${what}: its answer is no JSON`);
      return { status, body: parsed, message };
    }
    const isDenied = TOKEN_REFUSED.has(status) || status === 403;
    const code = isDenied ? 'denied' : status >= 500 || status === 429 ? 'unavailable' : 'unsupported';
    throw new PenstockError(code, `${what}: ${status} ${message}`);
  }

  async #fetch(
    method: string,
    path: string,
    token: string | null,
    body: unknown,
  ): Promise<{ readonly response: Response; readonly text: string }> {
    const { accessDelegation } = this.#options;
    try {
      const response = await fetch(`${this.#base}${path}`, {
        method,
        headers: {
          accept: 'application/json',
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
          ...(accessDelegation === undefined ? {} : { 'x-iceberg-access-delegation': accessDelegation }),
        },
        ...(body === undefined ? {} : { body: stringifyJson(body) }),
        signal: AbortSignal.timeout(TIME_MS),
        redirect: 'error',
      });
      return { response, text: await boundedText(response, ANSWER_BYTES_MAX) };
    } catch (error) {
      if (error instanceof PenstockError) throw error;
      throw new PenstockError('unavailable', `${method} ${this.#base}${path}: ${describeError(error)}`, {
        cause: error,
      });
    }
  }
}

function parse(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}
