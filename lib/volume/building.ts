/**
 * Trees that no name leads to: a clone that is being made, a snapshot that is being removed. Record {v}c <root ino> says whose work it is;
 * when that session is over, gc removes the tree.  Value: the session's number, decimal.
 */
import type { MetaEngine, ScanPage, Version } from '../meta/engine.ts';
import type { VolumeKeys } from './keys.ts';

const PAGE = 500;

export function encodeBuilder(sessionId: number): Buffer {
  return Buffer.from(String(sessionId));
}

interface BuildingTree {
  readonly root: number;
  readonly session: number;
  /** Of the record: who was done in the meantime has removed it. */
  readonly version: Version;
}

interface Trees {
  /** Somebody works on them. */
  readonly underWay: readonly BuildingTree[];
  readonly abandoned: readonly BuildingTree[];
}

export async function treesIn(engine: MetaEngine, keys: VolumeKeys): Promise<Trees> {
  const trees = new Map<number, BuildingTree>();
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: ScanPage = await engine.scan(keys.buildings, cursor, PAGE);
    for (const [field, { value, version }] of page.entries) {
      trees.set(Number(field), { root: Number(field), session: Number(value), version });
    }
    cursor = page.cursor;
  }
  // Asked after the scan: whoever began in between is not on the list.
  const live = new Set((await engine.sessions()).filter((session) => session.live).map(({ id }) => id));
  const { underWay = [], abandoned = [] } = Object.groupBy(trees.values(), ({ session }) =>
    live.has(session) ? 'underWay' : 'abandoned',
  );
  return { underWay, abandoned };
}

/** Makes it ours; false when its builder had been done. From here on the builder can do nothing, even if its process wakes up. */
export async function takeOver(engine: MetaEngine, keys: VolumeKeys, tree: BuildingTree): Promise<boolean> {
  await engine.endSession(tree.session);
  const key = keys.building(tree.root);
  const taken = await engine.commit({
    compare: [{ key, version: tree.version }],
    write: [{ key, value: encodeBuilder(engine.sessionId) }],
    whenFull: true,
  });
  return taken.ok;
}
