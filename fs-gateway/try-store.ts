/**
 * The object store is asked before a volume is made or mounted: a bucket that is missing, or credentials that are wrong, are told to whoever types
 * the command, and not as EIO to the first program that reads or writes.
 */
import { describeError, isCode } from '../lib/errors.ts';
import { openStore } from '../lib/registry.ts';
import type { StoreCredentials } from '../lib/store/store.ts';
import type { VolumeFormat } from '../lib/volume/format.ts';

/** Where the store swallows what is sent to it, a mount is so much later; one that refuses connections costs nothing, as a request is repeated once. */
const READ_DEADLINE = '10s';
const READ_ATTEMPTS = '2';

/** Throws what the store says when nothing can be written to it. (Opening a directory makes it.) */
export async function tryWriting(storeUrl: string, volumeId: string): Promise<void> {
  const store = await openStore(storeUrl);
  try {
    const key = `${volumeId}/format-check`;
    if (store.localPath(key) !== null) return;
    await store.put(key, Buffer.from('written and removed by penstock fs format'));
    await store.delete([key]);
  } finally {
    await store.close();
  }
}

/**
 * Throws `denied`, `not-found` and `config`: no later moment mends these. Of all else it returns what the store said, because a store that is away must not keep
 * a node from mounting what it has in its cache (docs/decisions/0085-a-mount-asks-its-store.md).
 */
export async function tryReading(
  { id, store: storeUrl }: Pick<VolumeFormat, 'id' | 'store'>,
  credentials: StoreCredentials | undefined,
): Promise<string | undefined> {
  const url = new URL(storeUrl);
  if (url.protocol === 'dir:') return undefined;
  url.searchParams.set('deadline', READ_DEADLINE);
  url.searchParams.set('attempts', READ_ATTEMPTS);
  const store = await openStore(url.href, credentials);
  try {
    await store.head(`${id}/mount-check`);
    return undefined;
  } catch (error) {
    if (isCode(error, 'denied', 'not-found', 'config')) throw error;
    return describeError(error);
  } finally {
    await store.close();
  }
}
