/**
 * Walks a directory tree in the byte order of the full keys. `a.txt` comes before `a/b` because '.' is below '/': so a folder's
 * children are sorted with a '/' behind the names of folders, and depth-first order is then key order.
 *
 * Limits: memory holds the names of one folder per level of depth, never the tree.
 */
import { lstat, readdir } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../../errors.ts';
import { compareKeys, RESERVED_SEGMENT } from '../object-key.ts';

/** Files looked up at once; more only queue in libuv's pool of four threads. */
const STAT_BATCH = 64;

export interface FoundFile {
  readonly key: string;
  readonly stats: BigIntStats;
}

/** The regular files below `root` whose key starts with `prefix` and is above `after`. Symbolic links are no objects. */
export async function* walk(root: string, prefix: string, after: string): AsyncGenerator<FoundFile> {
  const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1);
  yield* walkFolder(root, folder, prefix, after);
}

async function* walkFolder(root: string, folder: string, prefix: string, after: string): AsyncGenerator<FoundFile> {
  const children = (await childrenOf(root, folder)).filter(
    (child) =>
      (child.startsWith(prefix) || (child.endsWith('/') && prefix.startsWith(child))) && mayFollow(child, after),
  );
  let files: string[] = [];
  for (const child of children) {
    if (!child.endsWith('/')) {
      files.push(child);
      if (files.length < STAT_BATCH) continue;
    }
    yield* lookUp(root, files);
    files = [];
    if (child.endsWith('/')) yield* walkFolder(root, child, prefix, after);
  }
  yield* lookUp(root, files);
}

/** A folder may hold keys above `after` when it is above it, or when `after` lies inside of it. */
function mayFollow(child: string, after: string): boolean {
  return compareKeys(child, after) > 0 || (child.endsWith('/') && after.startsWith(child));
}

/** The sorted keys of a folder's files, and its sub-folders with a '/' at the end. */
async function childrenOf(root: string, folder: string): Promise<string[]> {
  try {
    const entries = await readdir(join(root, folder), { withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile() || (entry.isDirectory() && !(folder === '' && entry.name === RESERVED_SEGMENT)))
      .map((entry) => (entry.isDirectory() ? `${folder}${entry.name}/` : `${folder}${entry.name}`))
      .sort(compareKeys);
  } catch (error) {
    // Emptied and removed while we walked, or a prefix below which nothing was ever stored.
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}

async function* lookUp(root: string, keys: readonly string[]): AsyncGenerator<FoundFile> {
  const found = await Promise.all(
    keys.map(async (key) => {
      try {
        return { key, stats: await lstat(join(root, key), { bigint: true }) };
      } catch (error) {
        if (systemCode(error) === 'ENOENT') return null;
        throw error;
      }
    }),
  );
  for (const file of found) if (file?.stats.isFile() === true) yield file;
}
