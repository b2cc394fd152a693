/**
 * Which objects of the store a volume refers to: the walk over all extents that gc, fsck and the table's own clean-up need.
 *
 * While a walk goes on, a commit may give an object a second reference (a copy that shares extents) and the first one may go before the
 * walk comes to the second. Such commits write {v}r <object id> (keys.ts); who walks counts these as live, and reads them last.
 *
 * Objects of the lake are deleted by their tables. A clone that refers to one writes {v}y <object key>, and gc removes that record when
 * no extent refers to the object any more.
 */
import type { MetaEngine, MetaReader, ScanPage, Write } from '../meta/engine.ts';
import { ByteReader } from './bytes.ts';
import { readExtents } from './extents.ts';
import type { Extent } from './extents.ts';
import { decodeInode } from './inode.ts';
import type { Inode } from './inode.ts';
import type { VolumeKeys } from './keys.ts';

const PAGE = 500;
const NOTHING = Buffer.alloc(0);

/** Every record of a bucket once or more, in pages. */
export async function* scanBucket(
  reader: MetaReader,
  bucket: string,
): AsyncGenerator<readonly [field: string, value: Buffer]> {
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: ScanPage = await reader.scan(bucket, cursor, PAGE);
    for (const [field, { value }] of page.entries) yield [field, value];
    cursor = page.cursor;
  }
}

/** All inodes; a damaged one is given as the error that it throws. */
export async function* allInodes(
  engine: MetaEngine,
  keys: VolumeKeys,
): AsyncGenerator<{ readonly ino: number; readonly inode: Inode | Error }> {
  for await (const bucket of engine.buckets(keys.inodePrefix)) {
    for await (const [field, value] of scanBucket(engine, bucket)) {
      const ino = keys.inoOf(bucket, field);
      try {
        yield { ino, inode: decodeInode(value, ino) };
      } catch (error) {
        yield { ino, inode: error instanceof Error ? error : new Error(String(error)) };
      }
    }
  }
}

/** The extents of one page record. Throws `corrupt`. */
export function decodeExtentPage(value: Buffer, bucket: string, field: string): Extent[] {
  const reader = new ByteReader(value, `extent page ${field} of ${bucket}`);
  const extents = readExtents(reader);
  reader.end();
  return extents;
}

/**
 * Shows every list of extents of the volume, from inodes and from pages. Throws `corrupt` at a damaged record: what it refers to is not
 * known, so nothing may be deleted.
 */
export async function walkReferences(
  engine: MetaEngine,
  keys: VolumeKeys,
  visit: (ino: number, extents: readonly Extent[]) => void,
): Promise<void> {
  for await (const { ino, inode } of allInodes(engine, keys)) {
    if (inode instanceof Error) throw inode;
    visit(ino, inode.extents);
  }
  // After the inodes: extents move from an inode into pages, never back.
  for await (const bucket of engine.buckets(keys.pagesPrefix)) {
    const ino = Number(bucket.slice(keys.pagesPrefix.length));
    for await (const [field, value] of scanBucket(engine, bucket)) visit(ino, decodeExtentPage(value, bucket, field));
  }
}

/** What a commit writes that gives the extents a second reference; an empty list for none. */
export function referenceNotes(keys: VolumeKeys, extents: readonly Extent[]): Write[] {
  const noted = new Map<string, Write>();
  for (const { source } of extents) {
    const key = source.kind === 'own' ? keys.movedReference(source.objectId) : keys.lakeReference(source.key);
    noted.set(key.bucket + key.field, { key, value: NOTHING });
  }
  return [...noted.values()];
}

/** Of these objects of the lake, those that a clone refers to. */
export async function clonedLakeObjects(
  engine: MetaEngine,
  keys: VolumeKeys,
  objectKeys: readonly string[],
): Promise<ReadonlySet<string>> {
  const records = await engine.read(objectKeys.map((key) => keys.lakeReference(key)));
  return new Set(objectKeys.filter((_, index) => (records[index] ?? null) !== null));
}
