/**
 * Names and places of a table. Dataset `a.b` is table `b` in namespace `a`; a dataset without a dot is in namespace `default`.
 *
 *   {VOLUME}tables / DATASET                          -> the current pointer, in the MetaEngine (see pointer.ts)
 *   tables/NAMESPACE/TABLE/metadata/...               -> metadata, manifest lists, manifests, in the object store
 *   tables/NAMESPACE/TABLE/data/...                   -> Parquet files
 *   tables/NAMESPACE/TABLE/_quarantine/...            -> dead letters, where another program's catalog has the table
 */
import { PenstockError } from '../errors.ts';
import type { Key } from '../meta/engine.ts';

const NAME_BYTES_MAX = 200;
const DEFAULT_NAMESPACE = 'default';

/** The bucket of a volume's table pointers; one field per dataset. `volume` is the plain name, as `lake`. */
export function tablesBucket(volume: string): string {
  return `{${volume}}tables`;
}

export function tablePointerKey(volume: string, name: string): Key {
  assertTableName(name);
  return { bucket: tablesBucket(volume), field: name };
}

/** `tables/NAMESPACE/TABLE/` */
export function tableFolder(name: string): string {
  assertTableName(name);
  const dot = name.lastIndexOf('.');
  return dot < 0 ? `tables/${DEFAULT_NAMESPACE}/${name}/` : `tables/${name.slice(0, dot)}/${name.slice(dot + 1)}/`;
}

/**
 * Within the table's folder: the credentials that its catalog hands out reach no further. Iceberg's own removal of orphans (Spark's
 * `remove_orphan_files`, Flink's) takes every file there that the table does not refer to, but none below a name with `_` in front.
 */
export function deadLettersInTable(name: string): string {
  return `${tableFolder(name)}_quarantine/`;
}

/** The table in whose folder a key lies; null: in none. */
export function tableOfKey(key: string): string | null {
  const [, namespace, table] = /^tables\/([^/]+)\/([^/]+)\//.exec(key) ?? [];
  if (namespace === undefined || table === undefined) return null;
  return namespace === DEFAULT_NAMESPACE ? table : `${namespace}.${table}`;
}

/** The object key of a data file; `file` is unique and may hold folders, as `hour=2026-01-31T07/abc.parquet`. */
export function dataFileKey(name: string, file: string): string {
  return `${tableFolder(name)}data/${file}`;
}

/** Throws `config` unless `name` is a dataset's name: letters, digits, `_` and `-` in parts joined by dots. */
export function assertTableName(name: string): void {
  const valid = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/.test(name) && name.length <= NAME_BYTES_MAX;
  if (!valid || name.startsWith(`${DEFAULT_NAMESPACE}.`)) {
    throw new PenstockError(
      'config',
      `${JSON.stringify(name)} is not the name of a dataset: expected letters, digits, _ and - in parts joined by dots, ` +
        `at most ${NAME_BYTES_MAX} characters, and no '${DEFAULT_NAMESPACE}.' in front`,
    );
  }
}
