/**
 * Namespaces: the folders of tables.
 *
 *   {VOLUME}namespaces / NAME     its properties as JSON; NAME is its levels joined by dots
 *
 * Invariants: a namespace is there when it was created, or when a table lies in or below it, so no order of commits leaves a
 * table without one. `default` holds the datasets without a dot and is always there.
 */
import { z } from 'zod';
import { PenstockError } from '../../errors.ts';
import type { Stored } from '../../meta/engine.ts';
import { assertTableName, tablesBucket } from '../keys.ts';
import type { LakeContext } from '../table.ts';
import { RestError } from './rest-error.ts';

const DEFAULT = 'default';
const PAGE = 500;
const ATTEMPTS_MAX = 20;
const propertiesSchema = z.record(z.string(), z.string());
type Properties = z.output<typeof propertiesSchema>;

const namespacesBucket = (volume: string): string => `{${volume}}namespaces`;

/** Throws BadRequestException for levels that cannot be part of a dataset's name. */
export function namespaceName(levels: readonly string[]): string {
  if (levels.some((level) => !/^[A-Za-z0-9_-]+$/.test(level)) || levels.length === 0) {
    throw new RestError(
      'BadRequestException',
      `${JSON.stringify(levels)} is not a namespace: expected letters, digits, _ and - in each level`,
    );
  }
  return levels.join('.');
}

/** Table `table` in the namespace of `levels` as the name of a dataset. */
export function datasetName(levels: readonly string[], table: string): string {
  const namespace = namespaceName(levels);
  const isPlain = /^[A-Za-z0-9_-]+$/.test(table);
  const name = namespace === DEFAULT ? table : `${namespace}.${table}`;
  if (!isPlain) {
    throw new RestError(
      'BadRequestException',
      `'${table}' is not the name of a table: expected letters, digits, _ and -`,
    );
  }
  assertTableName(name);
  return name;
}

const namespaceOf = (dataset: string): string =>
  dataset.includes('.') ? dataset.slice(0, dataset.lastIndexOf('.')) : DEFAULT;

export async function datasets(lake: LakeContext): Promise<readonly string[]> {
  return fields(lake, tablesBucket(lake.volume));
}

async function fields(lake: LakeContext, bucket: string): Promise<readonly string[]> {
  const found = new Set<string>();
  for (let cursor: string | null = ''; cursor !== null;) {
    const page = await lake.engine.scan(bucket, cursor, PAGE);
    for (const [field] of page.entries) found.add(field);
    cursor = page.cursor;
  }
  return [...found].sort();
}

/** The names of the tables in a namespace, without it. Throws NoSuchNamespaceException. */
export async function tablesIn(lake: LakeContext, levels: readonly string[]): Promise<readonly string[]> {
  const namespace = namespaceName(levels);
  await loadNamespace(lake, levels);
  return (await datasets(lake))
    .filter((dataset) => namespaceOf(dataset) === namespace)
    .map((dataset) => dataset.slice(dataset.lastIndexOf('.') + 1));
}

/** One level below `parent` (the top without one). Throws NoSuchNamespaceException for a parent that is not there. */
export async function childNamespaces(
  lake: LakeContext,
  parent: readonly string[] | null,
): Promise<readonly (readonly string[])[]> {
  if (parent !== null) await loadNamespace(lake, parent);
  const prefix = parent ?? [];
  const children = new Map<string, readonly string[]>();
  for (const name of await allNamespaces(lake)) {
    const levels = name.split('.');
    const isBelow = levels.length > prefix.length && prefix.every((level, index) => levels[index] === level);
    if (isBelow) children.set(levels.slice(0, prefix.length + 1).join('.'), levels.slice(0, prefix.length + 1));
  }
  return [...children.values()];
}

async function allNamespaces(lake: LakeContext): Promise<readonly string[]> {
  const created = await fields(lake, namespacesBucket(lake.volume));
  return [...new Set([DEFAULT, ...created, ...(await datasets(lake)).map(namespaceOf)])].sort();
}

/** Throws NoSuchNamespaceException. */
export async function loadNamespace(lake: LakeContext, levels: readonly string[]): Promise<Properties> {
  const name = namespaceName(levels);
  const stored = await read(lake, name);
  if (stored !== null) return parse(stored, name);
  const isThere = (await allNamespaces(lake)).some((other) => other === name || other.startsWith(`${name}.`));
  if (!isThere) throw new RestError('NoSuchNamespaceException', `there is no namespace ${name}`);
  return {};
}

/** Throws AlreadyExistsException. */
export async function createNamespace(
  lake: LakeContext,
  levels: readonly string[],
  properties: Properties,
): Promise<void> {
  const name = namespaceName(levels);
  const isThere = (await allNamespaces(lake)).includes(name);
  if (isThere || !(await write(lake, name, null, properties))) {
    throw new RestError('AlreadyExistsException', `namespace ${name} exists already`);
  }
}

/** Throws NamespaceNotEmptyException while there are tables or namespaces in it. */
export async function dropNamespace(lake: LakeContext, levels: readonly string[]): Promise<void> {
  const name = namespaceName(levels);
  await loadNamespace(lake, levels);
  const names = await allNamespaces(lake);
  const isUsed = (await datasets(lake)).some((dataset) => namespaceOf(dataset) === name);
  if (name === DEFAULT || isUsed || names.some((other) => other.startsWith(`${name}.`))) {
    throw new RestError('NamespaceNotEmptyException', `namespace ${name} is not empty`);
  }
  await lake.engine.commit({ write: [{ key: { bucket: namespacesBucket(lake.volume), field: name }, value: null }] });
}

export async function updateNamespace(
  lake: LakeContext,
  levels: readonly string[],
  removals: readonly string[],
  updates: Properties,
): Promise<{ readonly updated: string[]; readonly removed: string[]; readonly missing: string[] }> {
  const name = namespaceName(levels);
  const both = removals.find((key) => Object.hasOwn(updates, key));
  if (both !== undefined) throw new RestError('BadRequestException', `property ${both} is both set and removed`);
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    await loadNamespace(lake, levels);
    const stored = await read(lake, name);
    const before = stored === null ? {} : parse(stored, name);
    const kept = Object.entries(before).filter(([key]) => !removals.includes(key));
    if (!(await write(lake, name, stored, { ...Object.fromEntries(kept), ...updates }))) continue;
    return {
      updated: Object.keys(updates),
      removed: removals.filter((key) => Object.hasOwn(before, key)),
      missing: removals.filter((key) => !Object.hasOwn(before, key)),
    };
  }
  throw new PenstockError('conflict', `namespace ${name} changes too often`);
}

async function read(lake: LakeContext, name: string): Promise<Stored | null> {
  const [stored] = await lake.engine.read([{ bucket: namespacesBucket(lake.volume), field: name }]);
  return stored ?? null;
}

async function write(lake: LakeContext, name: string, from: Stored | null, properties: Properties): Promise<boolean> {
  const key = { bucket: namespacesBucket(lake.volume), field: name };
  const result = await lake.engine.commit({
    compare: [{ key, version: from?.version ?? null }],
    write: [{ key, value: Buffer.from(JSON.stringify(properties)) }],
  });
  return result.ok;
}

function parse({ value }: Stored, name: string): Properties {
  try {
    return propertiesSchema.parse(JSON.parse(value.toString('utf8')));
  } catch (error) {
    throw new PenstockError('corrupt', `the properties of namespace ${name} are damaged`, { cause: error });
  }
}
