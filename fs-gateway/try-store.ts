/**
 * The object store is asked before a volume is made or mounted: a bucket that is missing, or credentials that are wrong, are told to whoever types
 * the command, and not as EIO to the first program that reads or writes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, isCode, PenstockError } from '../lib/errors.ts';
import { openStore } from '../lib/registry.ts';
import type { StoreCredentials } from '../lib/store/store.ts';
import type { VolumeFormat } from '../lib/volume/format.ts';

/** Where the store swallows what is sent to it, or nobody gives credentials, a caller is so much later. */
const ASK_MS = 10_000;
/** A store that refuses connections keeps no mount waiting. */
const MOUNT_ATTEMPTS = '2';

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
 * Throws what the store says to who reads in it. Asked by a listing, not for an object: a policy may allow listings under a prefix only, and then S3 answers 403 for an
 * object that is not there. `key` begins no object's: the answer is one page, and empty.
 */
export async function askStore(
  storeUrl: string,
  credentials: StoreCredentials | undefined,
  key: string,
  deadlineMs = ASK_MS,
): Promise<void> {
  const url = new URL(storeUrl);
  if (url.protocol !== 'dir:') url.searchParams.set('deadline', `${deadlineMs}ms`);
  const store = await openStore(url.href, credentials);
  const answered = new AbortController();
  const what = `list ${store.location(key)}`;
  try {
    // The store's own deadline ends a request, and not the fetch of the credentials before it, which takes no signal.
    await Promise.race([collect(store.list(key)), late(what, deadlineMs, answered.signal)]);
  } finally {
    answered.abort();
    await store.close();
  }
}

async function collect(list: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of list) return;
}

async function late(what: string, deadlineMs: number, signal: AbortSignal): Promise<void> {
  await sleep(deadlineMs, undefined, { signal });
  throw new PenstockError(
    'timeout',
    `${what}: no answer within ${deadlineMs} ms from it or the source of its credentials`,
  );
}

/**
 * Throws `denied`, `not-found` and `config`: no later moment mends these. Of all else it returns what the store said, because a store that is away must not keep
 * a node from mounting what it has in its cache (docs/decisions/0085-a-mount-asks-its-store.md).
 */
export async function tryReading(
  { id, store }: Pick<VolumeFormat, 'id' | 'store'>,
  credentials: StoreCredentials | undefined,
): Promise<string | undefined> {
  const url = new URL(store);
  if (url.protocol === 'dir:') return undefined;
  url.searchParams.set('attempts', MOUNT_ATTEMPTS);
  try {
    await askStore(url.href, credentials, `${id}/mount-check`);
    return undefined;
  } catch (error) {
    if (isCode(error, 'denied', 'not-found', 'config')) throw error;
    return describeError(error);
  }
}
