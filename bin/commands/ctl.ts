/**
 * `penstock ctl RESOURCE VERB`: a client built from the /openapi.json of the server it talks to. An operation `resource.verb` takes
 * its path parameters in order, its query parameters and headers as `--name value`, and its body as `--field value` or `--data JSON`. Where the
 * document says that a field is a list or an object, the value is JSON, or `@FILE` with JSON or YAML. What the server answers with 202 is
 * followed to its end. `ctl completion` is what a shell asks.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { parse } from 'yaml';
import { z } from 'zod';
import { describeError, isCode, PenstockError, type ErrorCode } from '../../lib/errors.ts';
import { NOT_OF_ONE_INSTANT, oneLine, printTable, sayPartly, toJson } from '../output.ts';
import { COMPLETION_SCRIPT, completionsOf } from './ctl-completion.ts';
import { columnsSchema, showAnswer } from './ctl-screen.ts';
import { progressOnStderr } from './fs-arguments.ts';

interface CtlOptions {
  readonly url: string;
  readonly json?: true;
}

const TIMEOUT_MS = 60_000;
const LOOK_MS = 500;
/** What goes on in the server is followed over an absence as long as this: a pod that another node has to take over. */
const AWAY_MS = 300_000;

const parameterSchema = z.object({ name: z.string(), in: z.string(), required: z.boolean().optional() });
const bodySchema = z.object({
  content: z.object({
    'application/json': z.object({
      schema: z.object({ properties: z.record(z.string(), z.object({ type: z.unknown().optional() })).default({}) }),
    }),
  }),
});
const operationSchema = z.looseObject({
  operationId: z.string(),
  summary: z.string().default(''),
  parameters: z.array(parameterSchema).default([]),
  requestBody: bodySchema.optional(),
  'x-columns': columnsSchema.optional(),
});
/** A copy of the volume that says so of itself. */
const inconsistentSchema = z.object({ consistent: z.literal(false) });
const documentSchema = z.object({ paths: z.record(z.string(), z.record(z.string(), operationSchema)) });

interface Operation extends z.output<typeof operationSchema> {
  readonly method: string;
  readonly path: string;
}

export function addCtlCommand(program: Command): void {
  program
    .command('ctl [resource] [verb] [args...]')
    .description(
      'ask and steer a running `penstock serve`; without RESOURCE it lists what there is, with RESOURCE alone what its verbs take',
    )
    .option('--url <url>', 'of the server', process.env['PENSTOCK_URL'] ?? 'http://127.0.0.1:8080')
    .option('--json', 'print the answer as JSON')
    .allowUnknownOption()
    .action(async (resource: string | undefined, verb: string | undefined, args: string[], options: CtlOptions) => {
      if (resource === 'completion' && verb === undefined) {
        process.stdout.write(COMPLETION_SCRIPT);
        return;
      }
      const base = baseOf(options.url);
      const operations = await readOperations(base);
      if (resource === 'completion') {
        // The last word only says that there is one to complete.
        const words = completionsOf(operations.map(completable), [verb ?? '', ...args].slice(0, -1));
        process.stdout.write(`${words.join('\n')}\n`);
        return;
      }
      const operation = operations.find(({ operationId }) => operationId === `${resource ?? ''}.${verb ?? ''}`);
      if (operation === undefined) {
        const shown = operations.filter(
          ({ operationId }) => resource === undefined || operationId.startsWith(`${resource}.`),
        );
        if (resource === undefined) printTable(shown.map(describe), options.json);
        else if (verb === undefined && shown.length > 0) printTable(shown.map(describeWhole), options.json);
        else throw unknownOperation(`${resource} ${verb ?? ''}`, shown, operations);
        return;
      }
      const answer = await toItsEnd(base, await call(base, operation, args));
      if (options.json === true) process.stdout.write(`${toJson(answer)}\n`);
      else showAnswer(answer, operation['x-columns']);
      if (inconsistentSchema.safeParse(answer).success) sayPartly(NOT_OF_ONE_INSTANT);
    });
}

function baseOf(text: string): string {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol) && !text.includes('@')) return text;
  throw new PenstockError(
    'usage',
    '--url (or PENSTOCK_URL): expected http://HOST:PORT or https://HOST:PORT; a token stands in PENSTOCK_TOKEN',
  );
}

async function readOperations(base: string): Promise<Operation[]> {
  const { value } = await request(new URL('/openapi.json', base), { method: 'GET' });
  const parsed = documentSchema.safeParse(value);
  if (!parsed.success) throw new PenstockError('unsupported', `${base} serves no OpenAPI document of Penstock`);
  return Object.entries(parsed.data.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ ...operation, path, method: method.toUpperCase() })),
  );
}

const pathParameters = ({ path }: Operation): string[] =>
  [...path.matchAll(/\{([^}]+)\}/g)].map((match) => match[1] ?? '');

function describe(operation: Operation): Record<string, string> {
  const [resource = '', verb = ''] = operation.operationId.split('.');
  return { resource, verb, arguments: pathParameters(operation).join(' ').toUpperCase(), summary: operation.summary };
}

/** Of one resource there is room for what each verb takes behind `--`. */
function describeWhole(operation: Operation): Record<string, string> {
  const { resource = '', verb = '', arguments: names = '', summary = '' } = describe(operation);
  const options = completable(operation).options.map((name) => `--${name}`);
  return { resource, verb, arguments: names, options: options.join(' '), summary };
}

/** With its verbs where the resource is known, else with the resources. */
function unknownOperation(asked: string, ofResource: readonly Operation[], all: readonly Operation[]): PenstockError {
  const resources = new Set(all.map(({ operationId }) => operationId.split('.')[0]));
  const known =
    ofResource.length > 0 ? ofResource.map(({ operationId }) => operationId.replace('.', ' ')) : [...resources];
  return new PenstockError(
    'usage',
    `no '${asked.trim()}': expected one of ${known.join(', ')} (\`penstock ctl\` alone lists all, \`penstock ctl RESOURCE\` what each takes)`,
  );
}

function completable({ operationId, parameters, requestBody }: Operation): Parameters<typeof completionsOf>[0][number] {
  const named = parameters.filter((parameter) => parameter.in !== 'path').map(({ name }) => name);
  const fields = Object.keys(requestBody?.content['application/json'].schema.properties ?? {});
  return { operationId, options: [...named, ...fields] };
}

async function call(base: string, operation: Operation, args: readonly string[]): Promise<Answer> {
  const { positional, named } = splitArguments(args);
  const names = pathParameters(operation);
  if (positional.length !== names.length) {
    throw new PenstockError(
      'usage',
      `${operation.operationId.replace('.', ' ')}: expected ${names.length === 0 ? 'no arguments' : names.join(' ').toUpperCase()}`,
    );
  }
  const path = names.reduce(
    (text, name, index) => text.replace(`{${name}}`, encodeURIComponent(positional[index] ?? '')),
    operation.path,
  );
  const url = new URL(path, base);
  const body: Record<string, unknown> = {};
  const headers: Record<string, string> = {};
  for (const [name, value] of named) {
    const place = operation.parameters.find((parameter) => parameter.name === name)?.in;
    if (place === 'query') url.searchParams.set(name, value);
    else if (place === 'header') headers[name] = value;
    else if (operation.requestBody === undefined)
      throw new PenstockError('usage', `${operation.operationId}: it has no option --${name}`);
    else if (name === 'data') Object.assign(body, await parseObject(name, value));
    else body[name] = await fieldOf(operation.requestBody, name, value);
  }
  return request(url, {
    method: operation.method,
    ...(operation.requestBody === undefined
      ? { headers }
      : { headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(body) }),
  });
}

/** `a --b c --d=e` -> [a], [[b, c], [d, e]]. */
function splitArguments(args: readonly string[]): { positional: string[]; named: [string, string][] } {
  const positional: string[] = [];
  const named: [string, string][] = [];
  for (let at = 0; at < args.length; at++) {
    const match = /^--([^=]+)(?:=(.*))?$/s.exec(args[at] ?? '');
    if (match?.[1] === undefined) positional.push(args[at] ?? '');
    else {
      const value = match[2] ?? args[++at];
      if (value === undefined) throw new PenstockError('usage', `--${match[1]}: expected a value behind it`);
      named.push([match[1], value]);
    }
  }
  return { positional, named };
}

async function parseObject(name: string, text: string): Promise<Record<string, unknown>> {
  const parsed = z.record(z.string(), z.unknown()).safeParse(await parseValue(name, text));
  if (!parsed.success) throw new PenstockError('usage', `--${name}: expected an object`);
  return parsed.data;
}

/** As the document says that the field is; what it does not know, the server refuses by name. */
async function fieldOf(body: z.output<typeof bodySchema>, name: string, text: string): Promise<unknown> {
  const { type } = body.content['application/json'].schema.properties[name] ?? { type: 'string' };
  if (type === 'string') return text;
  if (type !== 'number' && type !== 'integer') return parseValue(name, text);
  return text.trim() === '' || Number.isNaN(Number(text)) ? text : Number(text);
}

async function parseValue(name: string, text: string): Promise<unknown> {
  try {
    return parse(text.startsWith('@') ? await readFile(text.slice(1), 'utf8') : text);
  } catch (error) {
    throw new PenstockError('usage', `--${name}: expected JSON, or @FILE with JSON or YAML`, { cause: error });
  }
}

const operationStateSchema = z.object({
  state: z.string(),
  progress: z.object({ phase: z.string(), done: z.number() }).nullable(),
  result: z.unknown(),
  error: z.object({ status: z.number(), detail: z.string() }).nullable(),
});

interface Answer {
  readonly value: unknown;
  /** Where to look at what is not done yet. */
  readonly goesOnAt: string | null;
}

const problemSchema = z.object({ title: z.string(), detail: z.string() });

async function request(
  url: URL,
  options: { method: string; headers?: Record<string, string>; body?: string },
): Promise<Answer> {
  const token = process.env['PENSTOCK_TOKEN'];
  const authorization = token === undefined || token === '' ? undefined : { authorization: `Bearer ${token}` };
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, {
      ...options,
      headers: { ...options.headers, ...authorization },
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await response.text();
  } catch (error) {
    throw new PenstockError(
      'unavailable',
      `${url.origin} does not answer: ${describeError(error)} (--url or PENSTOCK_URL says where \`penstock serve\` is)`,
    );
  }
  const isJson = response.headers.get('content-type')?.includes('json') ?? false;
  // Of no content there is an object with nothing in it, as of an operation that was followed to such an end.
  const value: unknown = text === '' ? {} : isJson ? JSON.parse(text) : text;
  if (response.ok) {
    const goesOnAt = response.status === 202 ? response.headers.get('location') : null;
    return { value, goesOnAt };
  }
  const problem = problemSchema.safeParse(value);
  const why = problem.success
    ? linesOf(`${problem.data.title}: ${problem.data.detail}`)
    : `HTTP status ${response.status}`;
  throw new PenstockError(CODES[response.status] ?? 'io', `${why}${HINTS[response.status] ?? ''}`);
}

/** What a server says may have lines, as DuckDB points at what is wrong in a query; a terminal finds no command in any of them. */
const linesOf = (text: string): string =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map(oneLine)
    .join('\n');

/** Of what goes on without its request: looks until it has ended, and shows how far it is. */
async function toItsEnd(base: string, { value, goesOnAt }: Answer): Promise<unknown> {
  if (goesOnAt === null) return value;
  const showProgress = progressOnStderr();
  const url = new URL(goesOnAt, base);
  const [id = '', , volume = ''] = goesOnAt.split('/').reverse();
  const look = `it goes on in the server: \`penstock ctl operations get ${volume} ${id}\` says how far it is`;
  let answeredMs = performance.now();
  for (;;) {
    await delay(LOOK_MS);
    let seen: unknown;
    try {
      seen = (await request(url, { method: 'GET' })).value;
      answeredMs = performance.now();
    } catch (error) {
      // A server that is started again, or its engine.
      if (isCode(error, 'unavailable') && performance.now() - answeredMs < AWAY_MS) continue;
      throw error instanceof PenstockError ? new PenstockError(error.code, `${error.message}; ${look}`) : error;
    }
    const parsed = operationStateSchema.safeParse(seen);
    if (!parsed.success) {
      throw new PenstockError('unsupported', `${url.href} answers what is no operation of Penstock; ${look}`);
    }
    const { state, progress, result, error } = parsed.data;
    if (progress !== null) showProgress(progress.phase, progress.done);
    if (state === 'done') return result;
    if (error !== null) throw new PenstockError(CODES[error.status] ?? 'io', oneLine(`${state}: ${error.detail}`));
  }
}

const CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'usage',
  401: 'denied',
  403: 'denied',
  404: 'not-found',
  409: 'conflict',
  412: 'conflict',
  428: 'usage',
  429: 'unavailable',
  503: 'unavailable',
};

/** How what the server asks for is said here. */
const HINTS: Readonly<Record<number, string>> = {
  401: ' (set PENSTOCK_TOKEN)',
  412: ' (look again, and pass the version with --if-match)',
  428: ' (pass it with --if-match)',
};
