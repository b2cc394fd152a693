/** What others do to a table while one of its hours is being compacted. */
import type { CompactorOptions, CompactResult } from '../../compactor/compact/compactor.ts';
import { commitDraft } from '../../lib/table/commit-loop.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyStore } from '../support/faulty-store.ts';
import { compactAll, DATASET, type TestPipeline } from './pipeline.ts';

/** Lets something happen before the first upload of a compaction: its rows are read, and not committed. */
class BeforeUpload extends FaultPlan {
  #happen: (() => Promise<unknown>) | null;

  constructor(happen: () => Promise<unknown>) {
    super();
    this.#happen = happen;
  }

  override async run<T>(operation: string, effect: () => Promise<T>): Promise<T> {
    const happen = operation === 'putFile' ? this.#happen : null;
    if (happen !== null) {
      this.#happen = null;
      await happen();
    }
    return effect();
  }
}

export function compactWhile(
  pipeline: TestPipeline,
  happen: () => Promise<unknown>,
  options: Partial<CompactorOptions> = {},
): Promise<CompactResult> {
  const { lake } = pipeline;
  const store = faultyStore(lake.store, new BeforeUpload(happen));
  return compactAll({ ...pipeline, lake: { ...lake, store } }, options);
}

export async function rollBack(lake: LakeContext, snapshotId: bigint): Promise<void> {
  await commitDraft(lake, DATASET, async ({ metadata }) => ({
    metadata: {
      ...metadata,
      'current-snapshot-id': snapshotId,
      refs: { main: { 'snapshot-id': snapshotId, type: 'branch' } },
    },
    objects: [],
    extra: {},
  }));
}
