/**
 * `penstock fs publish`: objects that another program has put into the volume's store become files, without a copy.
 *
 * Invariants: the tree appears whole or not at all. A published file is of one version of its object (its etag): when somebody writes the
 * object again, reads fail with EIO and name it, and never mix the two. The object stays its owner's: removing the file leaves it, and gc does
 * not touch it.
 * Limits: objects of the volume's own store; objects of the lake's tables are published by `dataset snapshot`, which can tell when they go; those of
 * the quarantine go with their retention, whoever refers to them.
 */
import { resolve } from 'node:path';
import { PenstockError } from '../../lib/errors.ts';
import type { ObjectInfo, ObjectStore } from '../../lib/store/store.ts';
import { isOwnObject } from '../data/pieces.ts';
import { newPlace, TreeWork } from './clone.ts';
import type { CloneOptions } from './clone.ts';
import { ObjectTree } from './object-tree.ts';
import type { ObjectFile } from './object-tree.ts';

const TABLES = 'tables/';
const QUARANTINE = 'quarantine/';

export interface PublishReport {
  readonly path: string;
  readonly inode: number;
  readonly files: number;
  readonly directories: number;
  /** Sizes of the files; no data is copied. */
  readonly bytes: number;
  /** Objects that cannot be files; `problems` names the first ones. */
  readonly skipped: number;
  readonly problems: readonly string[];
}

/** `objectUrl` ends with `/`: all objects below it, as a tree. Throws `not-found`, `exists`, `quota`, `usage`. */
export async function publishObjects(
  options: CloneOptions,
  store: ObjectStore,
  objectUrl: string,
  path: string,
): Promise<PublishReport> {
  const key = keyOf(store, objectUrl);
  const work = await TreeWork.open(options);
  const place = await newPlace(work.view, path);
  const { view, nowNs } = work;
  const { progress = () => undefined } = options;
  return work.build(place, async (root, quota) => {
    const tree = new ObjectTree({ view, quota, frozen: false, nowNs, progress });
    if (key.endsWith('/')) await tree.tree(objectsBelow(store, key), place.parent.ino, root);
    else await tree.file(await oneObject(store, key), root);
    const { files, directories, bytes, skipped, problems } = tree;
    if (files === 0) throw new PenstockError('not-found', nothingAt(objectUrl, problems));
    return { files, directories, bytes, skipped, problems };
  });
}

function nothingAt(objectUrl: string, problems: readonly string[]): string {
  return `no object at ${objectUrl} can be published${problems.length === 0 ? '' : `: ${problems.join('; ')}`}`;
}

/** Throws `usage` for what is not in the store. `dir:PATH` is the path of a file or a folder. */
function keyOf(store: ObjectStore, objectUrl: string): string {
  const folder = objectUrl.endsWith('/');
  const location = objectUrl.startsWith('dir:') ? `file://${resolve(objectUrl.slice('dir:'.length))}` : objectUrl;
  const key = store.keyOf(location.replace(/\/+$/, ''));
  if (key === null) {
    throw new PenstockError(
      'usage',
      `${objectUrl} is not in the store of the volume, ${store.url}: only what is there can be published without a copy`,
    );
  }
  const problem = problemOf(folder ? `${key}/` : key);
  if (problem !== null) throw new PenstockError('usage', `${objectUrl} ${problem}`);
  return folder ? `${key}/` : key;
}

function problemOf(key: string): string | null {
  if (isOwnObject(key)) return 'belongs to a volume: `penstock fs clone` shares what a volume has';
  if (key.startsWith(QUARANTINE)) {
    return 'holds quarantined records, which go with their retention: `penstock quarantine show` prints them';
  }
  return key.startsWith(TABLES)
    ? "belongs to a table of the lake: `penstock dataset snapshot create` keeps a table's files as they are now"
    : null;
}

async function* objectsBelow(store: ObjectStore, prefix: string): AsyncGenerator<ObjectFile> {
  for await (const info of store.list(prefix)) yield fileOf(info, info.key.slice(prefix.length));
}

async function oneObject(store: ObjectStore, key: string): Promise<ObjectFile> {
  const info = await store.head(key);
  if (info === null) {
    throw new PenstockError('not-found', `${store.location(key)} is not there (a folder of objects ends with '/')`);
  }
  return fileOf(info, '');
}

function fileOf({ key, bytes, etag, modifiedMs }: ObjectInfo, path: string): ObjectFile {
  const names = path.split('/').map((name) => Buffer.from(name).toString('latin1'));
  return { names, object: { key, objectBytes: bytes, etag }, modifiedMs };
}
