/**
 * Schemas by id from a registry that speaks Confluent's REST API (Confluent, Karapace, Apicurio, Redpanda).
 * https://docs.confluent.io/platform/current/schema-registry/develop/api.html
 *
 * Failure: only the registry's own word that it has no such schema (404 with error code 40403, 40401 or 40402) makes a record unreadable.
 * Everything else (no connection, 5xx, 401, an answer of something else at that URL) is `unavailable`: the caller waits.
 * Limits: ANSWER_BYTES_MAX an answer, REFERENCES_MAX referenced schemas, REQUEST_MS a request.
 */
import { z } from 'zod';
import { boundedText } from '../../lib/bounded-text.ts';
import { describeError, PenstockError } from '../../lib/errors.ts';

const REQUEST_MS = 10_000;
const ANSWER_BYTES_MAX = 4 << 20;
const REFERENCES_MAX = 200;
/** Subject, version or schema not found. */
const NOT_FOUND_CODES: ReadonlySet<number> = new Set([40401, 40402, 40403]);

const referenceSchema = z.object({ name: z.string(), subject: z.string(), version: z.int() });
const answerSchema = z.object({
  schema: z.string(),
  schemaType: z.string().default('AVRO'),
  references: z
    .array(referenceSchema)
    .nullish()
    .transform((references) => references ?? []),
});
const errorSchema = z.object({ error_code: z.int(), message: z.string().default('') });

export interface NamedSchema {
  /** What the schema that refers to it calls it: a full name (Avro) or an import path (Protobuf). */
  readonly name: string;
  readonly text: string;
}

export interface RegisteredSchema {
  readonly text: string;
  readonly kind: string;
  /** All that it refers to, what a schema refers to before itself. */
  readonly references: readonly NamedSchema[];
}

export class SchemaRegistry {
  readonly #base: string;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(url: string) {
    const parsed = new URL(url);
    const { username, password } = parsed;
    parsed.username = '';
    parsed.password = '';
    this.#base = parsed.href.replace(/\/$/, '');
    const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
    this.#headers = {
      accept: 'application/vnd.schemaregistry.v1+json, application/json',
      ...(username === '' ? {} : { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }),
    };
  }

  /** null: the registry has no such schema, or none of those that it refers to. Throws `unavailable`. */
  async schema(id: number): Promise<RegisteredSchema | null> {
    const found = await this.#get(`/schemas/ids/${id}`);
    if (found === null) return null;
    const references = new Map<string, NamedSchema>();
    if (!(await this.#resolve(found.references, references, new Set()))) return null;
    return { text: found.schema, kind: found.schemaType, references: [...references.values()] };
  }

  async #resolve(
    wanted: readonly z.output<typeof referenceSchema>[],
    found: Map<string, NamedSchema>,
    open: Set<string>,
  ): Promise<boolean> {
    for (const { name, subject, version } of wanted) {
      // A circle of references, or one schema that many refer to: once is enough.
      if (found.has(name) || open.has(name) || open.size >= REFERENCES_MAX) continue;
      open.add(name);
      const answer = await this.#get(`/subjects/${encodeURIComponent(subject)}/versions/${version}`);
      if (answer === null || !(await this.#resolve(answer.references, found, open))) return false;
      found.set(name, { name, text: answer.schema });
    }
    return true;
  }

  async #get(path: string): Promise<z.output<typeof answerSchema> | null> {
    const url = `${this.#base}${path}`;
    const failed = (why: string, cause?: unknown): PenstockError =>
      new PenstockError('unavailable', `schema registry: GET ${url}: ${why}`, { retryable: true, cause });
    let status: number;
    let text: string;
    try {
      const response = await fetch(url, { headers: this.#headers, signal: AbortSignal.timeout(REQUEST_MS) });
      status = response.status;
      text = await boundedText(response, ANSWER_BYTES_MAX);
    } catch (error) {
      throw failed(describeError(error), error);
    }
    const answer = parseJson(text);
    if (status === 404) {
      const refusal = errorSchema.safeParse(answer);
      if (refusal.success && NOT_FOUND_CODES.has(refusal.data.error_code)) return null;
    }
    if (status !== 200) throw failed(`status ${status}: ${text.slice(0, 200)}`);
    const parsed = answerSchema.safeParse(answer);
    if (!parsed.success) throw failed(`the answer is not that of a schema registry: ${text.slice(0, 200)}`);
    return parsed.data;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
