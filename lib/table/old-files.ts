/**
 * Files that only older snapshots have: finding them, and deleting them before their grace is over (an erasure must).
 *
 * Invariants: as in maintenance.ts, an object is deleted only when no snapshot of the table reaches it and `keep` does not name it. Only
 * files that were once committed are found here, so nothing of a commit under way is among them.
 */
import { fetchAhead, manifestsOf, mayHoldHours } from './live-files.ts';
import { ReachedKeys } from './maintenance.ts';
import { readDeleteManifest } from './delete-manifest.ts';
import { DELETED, readManifest } from './manifest.ts';
import type { DataFile } from './data-file.ts';
import { loadTable, type LakeContext } from './table.ts';

const DELETE_BATCH = 500;

/** Data files, and delete files of other writers, in `hours` that some snapshot refers to and the current one does not, each once. */
export async function* oldFiles(
  ctx: LakeContext,
  name: string,
  hours: ReadonlySet<number>,
): AsyncGenerator<Pick<DataFile, 'location' | 'hour'>> {
  const state = await loadTable(ctx, name);
  if (state === null) return;
  const seen = new Set<string>();
  for await (const { location } of state.liveFiles({ hours })) seen.add(location);
  for (const { location } of (await state.rowDeletes({ hours })).files) seen.add(location);
  const manifests = new Set<string>();
  for (const snapshot of state.metadata.snapshots) {
    const fresh = (await manifestsOf(ctx.store, snapshot)).filter(
      (manifest) => !manifests.has(manifest.location) && mayHoldHours(manifest, state.metadata, hours),
    );
    for (const { location } of fresh) manifests.add(location);
    for await (const { manifest, bytes } of fetchAhead(ctx.store, fresh)) {
      const entries =
        manifest.content === 0 ? readManifest(bytes, manifest) : readDeleteManifest(bytes, manifest, state.metadata);
      for (const { status, file } of entries) {
        const { location, hour } = file;
        if (status === DELETED || hour === null || !hours.has(hour) || seen.has(location)) continue;
        seen.add(location);
        yield { location, hour };
      }
    }
  }
}

/** Deletes the objects that nothing refers to; answers those that stay. */
export async function deleteUnreached(
  ctx: LakeContext,
  name: string,
  keys: readonly string[],
  keep: (keys: readonly string[]) => Promise<ReadonlySet<string>>,
): Promise<ReadonlySet<string>> {
  const reached = new ReachedKeys(ctx, name);
  const stays = new Set<string>();
  for (let at = 0; at < keys.length; at += DELETE_BATCH) {
    await reached.refresh();
    const batch = keys.slice(at, at + DELETE_BATCH);
    const kept = await keep(batch);
    const gone = batch.filter((key) => !reached.has(key) && !kept.has(key));
    for (const key of batch) if (reached.has(key) || kept.has(key)) stays.add(key);
    await ctx.store.delete(gone);
  }
  return stays;
}
