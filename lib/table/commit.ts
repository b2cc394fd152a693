/**
 * Changes of a table's files: the one way by which rows enter or leave a table.
 *
 * A commit is one manifest (more when many are rewritten or merged), the manifest list and the metadata, written at once, then one
 * minitransaction that also carries what the caller's own records need (offsets, listings, leases): see commit-loop.ts.
 */
import type { DataFile } from './data-file.ts';
import { commitDraft } from './commit-loop.ts';
import type { NewObject } from './commit-loop.ts';
import { newSnapshotId, withSchema, withSnapshot } from './metadata.ts';
import { assertEvolution } from './schema.ts';
import { type HourChange, prepareListing } from '../volume/lake-listing.ts';
import { draftSnapshot } from './snapshot-draft.ts';
import type { AddedManifest } from './snapshot-draft.ts';
import type { CommitParts, LakeContext, TableChange, TableState } from './table.ts';

export interface PreparedChange {
  readonly change: TableChange;
  /** What becomes true together with it. */
  readonly extra: CommitParts;
  /** What changes in the directories of the volume at the same instant; each hour once. */
  readonly hours?: readonly HourChange[];
}

/**
 * Commits what `prepare` answers. `prepare` is called again with fresh state after every lost race, be it the table's pointer or a
 * compare of its own; it may throw to give up. An equal `add` array (the same object) makes the retry cheap: its manifest is used
 * again.
 *
 * Throws `conflict` when a file to remove is not live (naming it), when the schema change breaks the rules, or when the race was
 * lost too often; `timeout` when the outcome is not known (nothing has been deleted); `not-found` without a table.
 */
export async function commitTable(
  ctx: LakeContext,
  name: string,
  prepare: (state: TableState) => Promise<PreparedChange>,
): Promise<{ readonly snapshotId: bigint; readonly metadataLocation: string }> {
  const snapshotId = newSnapshotId();
  let added: { readonly files: readonly DataFile[]; readonly manifest: AddedManifest } | null = null;
  const { metadataLocation } = await commitDraft(ctx, name, async (state) => {
    const { change, extra, hours = [] } = await prepare(state);
    let metadata = state.metadata;
    if (change.schema !== undefined) {
      assertEvolution(state.schema, change.schema, metadata['last-column-id']);
      metadata = withSchema(metadata, change.schema);
    }
    const reuse = added?.files === change.add ? added.manifest : null;
    const draft = await draftSnapshot(ctx, { name, metadata, change, snapshotId, reuse });
    added = draft.addedManifest === null ? null : { files: change.add, manifest: draft.addedManifest };
    const objects: NewObject[] = draft.objects.map((object) => ({
      ...object,
      reusable: object.key === draft.addedManifest?.object.key,
    }));
    return {
      metadata: withSnapshot(metadata, draft.snapshot),
      objects,
      extra: await withListing(ctx, name, extra, hours),
    };
  });
  return { snapshotId, metadataLocation };
}

/** With a foreign catalog the directories follow the commit (foreign/follow.ts). */
async function withListing(
  ctx: LakeContext,
  name: string,
  extra: CommitParts,
  hours: readonly HourChange[],
): Promise<CommitParts> {
  if (hours.length === 0 || ctx.catalog !== undefined) return extra;
  const listing = await prepareListing(ctx.engine, ctx.volume, name, hours, ctx.clock.nowMs());
  return {
    compare: [...(extra.compare ?? []), ...listing.compare],
    write: [...(extra.write ?? []), ...listing.write],
    patch: [...(extra.patch ?? []), ...listing.patch],
    publish: listing.publish,
  };
}
