/**
 * The directories of the lake: `/lake/<dataset>/dt=YYYY-MM-DD/hour=HH` are real directories of the volume, made when first needed.
 *
 * Invariants: a directory is one commit (entry, inode, the parent's times and count), compared against the parent's inode, so it
 * never appears in a removed one. Making what exists returns it.
 * Failure: killed between two directories, the next call makes the rest.
 */
import { PenstockError } from '../errors.ts';
import type { MetaEngine } from '../meta/engine.ts';
import { DT_DIR, decodeDentry, encodeDentry } from './dentry.ts';
import { encodeChanges } from './feed.ts';
import { initialCounters } from './format.ts';
import { takeIds } from './ids.ts';
import { decodeInode, encodeInode, INODE_LISTING, isDirectory, newInode, S_IFDIR } from './inode.ts';
import { ROOT_INO } from './keys.ts';
import type { VolumeKeys } from './keys.ts';

/** Someone else has to win each of these races, and each win makes the directory. */
const ATTEMPTS_MAX = 20;
const DIRECTORY_MODE = S_IFDIR | 0o755;

/** `hour` counts hours since the epoch, UTC. Returns the inode numbers of the hour directories, in the order of `hours`. */
export async function ensureHourDirectories(
  engine: MetaEngine,
  keys: VolumeKeys,
  dataset: string,
  hours: readonly number[],
  nowMs: number,
): Promise<number[]> {
  const lake = await ensureDirectory(engine, keys, ROOT_INO, 'lake', 0, nowMs);
  const root = await ensureDirectory(engine, keys, lake, dataset, 0, nowMs);
  const dayNames = [...new Set(hours.map((hour) => hourPath(hour).day))];
  const days = new Map<string, number>();
  await Promise.all(
    dayNames.map(async (day) => days.set(day, await ensureDirectory(engine, keys, root, day, 0, nowMs))),
  );
  return Promise.all(
    hours.map((hour) => {
      const path = hourPath(hour);
      const day = days.get(path.day);
      if (day === undefined) throw new Error('every hour has its day');
      return ensureDirectory(engine, keys, day, path.hour, INODE_LISTING, nowMs);
    }),
  );
}

/** 473_352 -> { day: 'dt=2024-01-01', hour: 'hour=00' } */
export function hourPath(hour: number): { readonly day: string; readonly hour: string } {
  const iso = new Date(hour * 3_600_000).toISOString();
  return { day: `dt=${iso.slice(0, 10)}`, hour: `hour=${iso.slice(11, 13)}` };
}

async function ensureDirectory(
  engine: MetaEngine,
  keys: VolumeKeys,
  parent: number,
  name: string,
  flags: number,
  nowMs: number,
): Promise<number> {
  const nowNs = BigInt(Math.round(nowMs)) * 1_000_000n;
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const found = await engine.follow(keys.entry(parent, name), keys.entryToInode);
    if (found.record !== null) {
      const { ino } = decodeDentry(found.record.value, parent, name);
      if (found.target === null) continue;
      if (!isDirectory(decodeInode(found.target.value, ino))) {
        throw new PenstockError('exists', `'${name}' in the lake of volume '${keys.volume}' is not a directory`);
      }
      return ino;
    }
    const [parentInode] = await engine.read([keys.inode(parent)]);
    if (parentInode === null || parentInode === undefined) {
      if (parent !== ROOT_INO) {
        throw new PenstockError('not-found', `directory ${parent} of volume '${keys.volume}' is gone`);
      }
      await makeRoot(engine, keys, nowNs);
      continue;
    }
    const ino = await takeIds(engine, keys, 'ino', 1);
    const inode = newInode(DIRECTORY_MODE, 0, 0, nowNs, { parent, flags });
    const made = await engine.commit({
      compare: [
        { key: keys.entry(parent, name), version: null },
        { key: keys.inode(parent), version: parentInode.version },
      ],
      write: [
        { key: keys.entry(parent, name), value: encodeDentry(ino, DT_DIR) },
        { key: keys.inode(ino), value: encodeInode(inode) },
      ],
      patch: [
        { number: keys.entriesChanged(parent), max: nowNs },
        { number: keys.subdirectories(parent), add: 1n },
        { number: keys.counter('inodes'), add: 1n },
      ],
      publish: [
        {
          shard: keys.shard(parent),
          message: encodeChanges(engine.sessionId, [
            { kind: 'entry', parent, name },
            { kind: 'inode', ino: parent },
          ]),
        },
      ],
    });
    if (made.ok) return ino;
  }
  throw new PenstockError('conflict', `directory '${name}' of volume '${keys.volume}' changes too often`);
}

/** A lake may be written before its volume is formatted. */
async function makeRoot(engine: MetaEngine, keys: VolumeKeys, nowNs: bigint): Promise<void> {
  const key = keys.inode(ROOT_INO);
  await engine.commit({
    compare: [{ key, version: null }],
    write: [{ key, value: encodeInode(newInode(DIRECTORY_MODE, 0, 0, nowNs)) }],
    patch: initialCounters(keys),
  });
}
