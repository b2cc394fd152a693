/** The metadata engine and the object store that the secrets of a call name, for as long as the call takes. */
import { isCode } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { absoluteUrl, openMeta } from '../../lib/registry.ts';
import { askStore } from '../try-store.ts';
import type { Secrets } from './secrets.ts';
import { CsiError, Status } from './status.ts';

export async function withEngine<T>(secrets: Secrets, work: (engine: MetaEngine) => Promise<T>): Promise<T> {
  const engine = await openMeta(absoluteUrl(secrets.metaUrl, '/'), { kind: 'csi' });
  try {
    return await work(engine);
  } finally {
    await engine.close();
  }
}

/** Throws what is wrong with the store or its credentials. Nothing is written. */
export async function assertStore(storeUrl: string, secrets: Secrets): Promise<void> {
  try {
    await askStore(storeUrl, secrets.credentials, 'penstock-csi');
  } catch (error) {
    // NOT_FOUND would be taken for a missing source volume.
    if (isCode(error, 'not-found')) throw new CsiError(Status.FAILED_PRECONDITION, error.message, { cause: error });
    throw error;
  }
}
