/**
 * Reading a YAML configuration: one zod schema per program, parsed once, every problem reported at once with file, line, key
 * and what was expected. Unknown keys are refused (schemas are strict objects).
 *
 * Relative paths in a configuration are from its folder: `baseDir` is returned for that, and `absoluteUrl` of lib/registry.ts
 * and `resolve(baseDir, path)` apply it.
 */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isMap, isScalar, isSeq, LineCounter, parseDocument, visit, type Document, type Node } from 'yaml';
import { z } from 'zod';
import { describeError, isCode, PenstockError, systemCode } from '../errors.ts';
import { parseBytes, parseDuration } from '../units.ts';
import { expandEnvironment } from './environment.ts';
import { ISSUES, keyName, pathsOf, problemAt, type KeyProblem } from './issues.ts';
import { yamlProblems } from './yaml-errors.ts';

export interface Loaded<T> {
  readonly config: T;
  /** Absolute path of the file. */
  readonly path: string;
  /** The folder that relative paths are resolved against. */
  readonly baseDir: string;
}

export interface ConfigProblem extends KeyProblem {
  readonly line: number;
}

/** Thrown by `loadConfig`: a `config` error that lists every problem, one a line. */
export class ConfigError extends PenstockError {
  readonly problems: readonly ConfigProblem[];
  constructor(path: string, problems: readonly ConfigProblem[]) {
    const lines = problems.map((p) => `${path}:${p.line}: ${p.key === '' ? '' : `${p.key}: `}${p.message}`);
    super('config', lines.join('\n'));
    this.problems = problems;
  }
}

/** What a check of a configuration of the right shape has found. */
export interface PathProblem {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** Throws `config` for a file that is missing, unreadable, not YAML or not of the schema. */
export async function loadConfig<T>(path: string, schema: z.ZodType<T>): Promise<Loaded<T>> {
  return loadedFrom(await readConfig(path), path, schema);
}

/** What a configuration file holds. Throws `config` for one that is missing or unreadable. */
export async function readConfig(path: string): Promise<string> {
  try {
    return await readFile(resolve(path), 'utf8');
  } catch (error) {
    const why =
      systemCode(error) === 'ENOENT'
        ? 'no such file'
        : systemCode(error) === 'EISDIR'
          ? 'is a directory'
          : String(error);
    throw new PenstockError('config', `configuration ${path}: ${why}`);
  }
}

/**
 * `text`, which the file at `path` held when it was read. Throws `config` for what is not YAML, not of the schema, or what `check` finds
 * problems in.
 */
export async function loadedFrom<T>(
  text: string,
  path: string,
  schema: z.ZodType<T>,
  check?: (config: T, baseDir: string) => Promise<readonly PathProblem[]>,
): Promise<Loaded<T>> {
  const absolute = resolve(path);
  const baseDir = dirname(absolute);
  const { config, locate } = parseLocated(text, path, schema);
  const problems = (await check?.(config, baseDir)) ?? [];
  if (problems.length > 0) {
    throw new ConfigError(
      path,
      problems.map((problem) => ({ line: locate(problem.path), key: keyName(problem.path), message: problem.message })),
    );
  }
  return { config, path: absolute, baseDir };
}

/** `path` is only for messages. */
export function parseConfig<T>(text: string, path: string, schema: z.ZodType<T>): T {
  return parseLocated(text, path, schema).config;
}

/** With the line of each key. */
function parseLocated<T>(
  text: string,
  path: string,
  schema: z.ZodType<T>,
): { readonly config: T; readonly locate: (path: readonly PropertyKey[]) => number } {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: true });
  const lineOf = (offset: number): number => lineCounter.linePos(offset).line;
  if (document.errors.length > 0) {
    throw new ConfigError(path, yamlProblems(text, document.errors, lineCounter));
  }
  const unset: ConfigProblem[] = [];
  visit(document, {
    Scalar(_key, node) {
      if (typeof node.value !== 'string') return;
      try {
        node.value = expandEnvironment(node.value);
      } catch (error) {
        unset.push({ line: lineOf(node.range?.[0] ?? 0), key: '', message: describeError(error) });
      }
    },
  });
  if (unset.length > 0) throw new ConfigError(path, unset);
  // Aliases may expand without end ("billion laughs"): the library's bound of 100 makes that an error.
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw new ConfigError(path, [
      { line: 1, key: '', message: error instanceof Error ? error.message : String(error) },
    ]);
  }
  const parsed = schema.safeParse(value ?? {}, ISSUES);
  const locate = (keyPath: readonly PropertyKey[]): number => lineOf(offsetOf(document, keyPath));
  if (parsed.success) return { config: parsed.data, locate };
  const problems = parsed.error.issues.flatMap((issue) =>
    pathsOf(issue).map((keyPath) => ({ line: locate(keyPath), ...problemAt(keyPath, issue) })),
  );
  throw new ConfigError(path, problems);
}

/** Where the deepest existing part of a key path stands in the text. */
function offsetOf(document: Document, path: readonly PropertyKey[]): number {
  let node: Node | null | undefined = document.contents;
  let offset = 0;
  for (const part of path) {
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part));
      if (pair === undefined) break;
      offset = (isScalar(pair.key) ? pair.key.range?.[0] : undefined) ?? offset;
      // A pair's value is a node (or nothing) in a document that was parsed from text.
      node = pair.value as Node | null;
    } else if (isSeq(node)) {
      node = node.items[Number(part)] as Node | undefined;
      offset = node?.range?.[0] ?? offset;
    } else break;
  }
  return offset;
}

function unit(name: string, parse: (text: string) => number): z.ZodType<number> {
  return z.union([z.string(), z.number()], { error: `expected a ${name}` }).transform((value, context) => {
    try {
      return parse(String(value));
    } catch (error) {
      const message = isCode(error, 'config') ? error.message : `expected a ${name}`;
      context.issues.push({ code: 'custom', message, input: value });
      return z.NEVER;
    }
  });
}

/** A size: `128MB`, `1GiB`, or a plain number of bytes. */
export const bytes = (): z.ZodType<number> => unit('size', parseBytes);

/** A duration: `60s`, `10m`, `24h`, `7d`, `250ms`. */
export const duration = (): z.ZodType<number> => unit('duration', parseDuration);

/** A URL that is shown and logged as it is: credentials stand elsewhere. */
export const httpUrl = z
  .url({ protocol: /^https?$/, error: 'expected an http or https URL' })
  .refine((url) => !url.includes('@'), 'a user and password do not belong into this URL');
