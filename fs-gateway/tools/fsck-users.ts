/** Objects that are missing, too short or changed, and the files that need them: a walk over all extents, only where something is wrong. */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { allInodes, decodeExtentPage, scanBucket } from '../../lib/volume/references.ts';
import type { Findings } from './fsck-findings.ts';
import type { BadObject } from './fsck-objects.ts';
import type { Paths } from './fsck-paths.ts';

const FILES_SHOWN = 3;

interface Reporting {
  readonly engine: MetaEngine;
  readonly keys: VolumeKeys;
  readonly paths: Paths;
  readonly findings: Findings;
}

export async function reportBadObjects(
  bad: readonly BadObject[],
  { engine, keys, paths, findings }: Reporting,
): Promise<void> {
  const users = new Map<number, number[]>(bad.flatMap(({ id }) => (id === null ? [] : [[id, []]])));
  if (users.size > 0) await findUsers(engine, keys, users);
  for (const { key, bytes, needed, changed, id, ino } of bad) {
    const inos = id === null ? (ino === null ? [] : [ino]) : (users.get(id) ?? []);
    const shown = await Promise.all(inos.slice(0, FILES_SHOWN).map((number) => paths.of(number)));
    const more = inos.length > FILES_SHOWN ? ` and ${inos.length - FILES_SHOWN} more` : '';
    const where = `${shown.join(', ')}${more}: object ${key}`;
    if (bytes === null) await findings.add('missing-object', `${where} is missing (${needed} bytes)`);
    else if (changed) await findings.add('changed-object', `${where} was changed since it was published`);
    else await findings.add('short-object', `${where} has ${bytes} bytes, ${needed} are needed`);
  }
}

async function findUsers(engine: MetaEngine, keys: VolumeKeys, users: ReadonlyMap<number, number[]>): Promise<void> {
  const note = (ino: number, extents: readonly Extent[]): void => {
    for (const { source } of extents) {
      const inos = source.kind === 'own' ? users.get(source.objectId) : undefined;
      if (inos !== undefined && !inos.includes(ino)) inos.push(ino);
    }
  };
  for await (const { ino, inode } of allInodes(engine, keys)) {
    if (!(inode instanceof Error)) note(ino, inode.extents);
  }
  for await (const bucket of engine.buckets(keys.pagesPrefix)) {
    const ino = Number(bucket.slice(keys.pagesPrefix.length));
    for await (const [field, value] of scanBucket(engine, bucket)) {
      try {
        note(ino, decodeExtentPage(value, bucket, field));
      } catch {
        // Reported by the first walk.
      }
    }
  }
}
