/**
 * What is at a path of a mount. Everything that POSIX tells is asked of the mount itself, so any user may ask about what they can see;
 * extents and objects are in the metadata, whose URL (it may hold a password) the mount tells nobody: who has it passes it.
 */
import { lstat, statfs } from 'node:fs/promises';
import { resolve } from 'node:path';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { decodeInode, INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeExtentPage, scanBucket } from '../../lib/volume/references.ts';
import { objectKey } from '../data/pieces.ts';
import { volumeInfo } from '../main.ts';
import { Failures, walkTree } from './tree.ts';
import { formatOf } from './tool.ts';
import type { Progress } from './tool.ts';

const TYPES: Readonly<Record<number, string>> = {
  0o010000: 'fifo',
  0o020000: 'character device',
  0o040000: 'directory',
  0o060000: 'block device',
  0o100000: 'file',
  0o120000: 'symbolic link',
  0o140000: 'socket',
};

export interface PathInfo {
  readonly mountpoint: string;
  readonly source: string;
  readonly type: string;
  readonly path: string;
  readonly inode: number;
  readonly kind: string;
  readonly mode: string;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  readonly bytes: number;
  readonly modified: string;
  readonly volumeBytes: number;
  readonly volumeInodes: number;
  /** Of a directory, with all below it. */
  readonly tree?: {
    readonly files: number;
    readonly directories: number;
    readonly bytes: number;
    readonly unreadable: number;
  };
  /** Of a file, with the URL of the metadata. */
  readonly content?: FileContent;
}

export interface FileContent {
  /** Kept in the metadata itself. */
  readonly inline: boolean;
  readonly extents: readonly {
    readonly offset: number;
    readonly bytes: number;
    readonly object: string;
    readonly objectOffset: number;
    /** Stored in zstd: the whole piece begins at `objectOffset` and has so many bytes there. */
    readonly zstdBytes?: number;
  }[];
  /** By how much compression makes the pieces of the file less than their content. */
  readonly savedBytes: number;
}

/** Throws `not-found` outside of our mounts. */
export async function pathInfo(path: string, progress: Progress = () => undefined): Promise<PathInfo> {
  const absolute = resolve(path);
  const mount = volumeInfo(absolute);
  const [stat, volume] = await Promise.all([lstat(absolute), statfs(mount.mountpoint)]);
  return {
    ...mount,
    path: absolute,
    inode: stat.ino,
    kind: TYPES[stat.mode & 0o170000] ?? 'unknown',
    mode: (stat.mode & 0o7777).toString(8).padStart(4, '0'),
    links: stat.nlink,
    uid: stat.uid,
    gid: stat.gid,
    bytes: stat.size,
    modified: stat.mtime.toISOString(),
    volumeBytes: (volume.blocks - volume.bfree) * volume.bsize,
    volumeInodes: volume.files - volume.ffree,
    ...(stat.isDirectory() && { tree: await count(absolute, progress) }),
  };
}

async function count(root: string, progress: Progress): Promise<NonNullable<PathInfo['tree']>> {
  const failures = new Failures();
  const tree = { files: 0, directories: 0, bytes: 0 };
  for await (const { path, kind } of walkTree(Buffer.from(root), failures)) {
    progress('names', tree.files + tree.directories + 1);
    if (kind === 'directory') tree.directories++;
    else {
      tree.files++;
      const bytes = kind === 'file' ? await size(path, failures) : 0;
      tree.bytes += bytes;
    }
  }
  return { ...tree, unreadable: failures.count };
}

async function size(path: Buffer, failures: Failures): Promise<number> {
  try {
    return (await lstat(path)).size;
  } catch (error) {
    failures.add(path, error);
    return 0;
  }
}

/** Where the bytes of a file are. Throws `not-found`, `corrupt`. */
export async function fileContent(engine: MetaEngine, volume: string, ino: number): Promise<FileContent> {
  const { id } = await formatOf(engine, volume);
  const keys = new VolumeKeys(volume);
  const [stored] = await engine.read([keys.inode(ino)]);
  if (stored === null || stored === undefined)
    throw new PenstockError('not-found', `volume '${volume}' has no inode ${ino}`);
  const inode = decodeInode(stored.value, ino);
  const extents: Extent[] = [...inode.extents];
  if ((inode.flags & INODE_PAGED) !== 0) {
    const bucket = keys.pages(ino);
    const pages = new Map<string, Extent[]>();
    for await (const [field, value] of scanBucket(engine, bucket)) {
      pages.set(field, decodeExtentPage(value, bucket, field));
    }
    extents.push(...[...pages.values()].flat().sort((a, b) => a.fileOffset - b.fileOffset));
  }
  return {
    inline: (inode.flags & INODE_INLINE) !== 0,
    extents: extents.map(({ fileOffset, length, sliceOffset, source }) => {
      const at = { offset: fileOffset, bytes: length };
      if (source.kind === 'external') return { ...at, object: source.key, objectOffset: sliceOffset };
      const { objectId, pieceOffset, pieceBytes, storedBytes } = source;
      const object = objectKey(id, objectId);
      return storedBytes < pieceBytes
        ? { ...at, object, objectOffset: pieceOffset, zstdBytes: storedBytes }
        : { ...at, object, objectOffset: pieceOffset + sliceOffset };
    }),
    savedBytes: savedBytes(extents),
  };
}

/** Each piece counts once, however many of its slices the file shows. */
function savedBytes(extents: readonly Extent[]): number {
  const saved = new Map<string, number>();
  for (const { source } of extents) {
    if (source.kind !== 'own') continue;
    saved.set(`${source.objectId}-${source.pieceOffset}`, source.pieceBytes - source.storedBytes);
  }
  return [...saved.values()].reduce((total, bytes) => total + bytes, 0);
}
