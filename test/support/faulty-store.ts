/** An ObjectStore whose calls a FaultPlan lets pass or fails, before or after they took effect. */
import type { ObjectInfo, ObjectStore } from '../../lib/store/store.ts';
import type { FaultPlan } from './fault.ts';

export function faultyStore(store: ObjectStore, plan: FaultPlan): ObjectStore {
  return {
    url: store.url,
    put: (key, body, options) => plan.run('put', () => store.put(key, body, options)),
    putFile: (key, path, options) => plan.run('putFile', () => store.putFile(key, path, options)),
    get: (key, options) => plan.run('get', () => store.get(key, options)),
    getFile: (key, path, options) => plan.run('getFile', () => store.getFile(key, path, options)),
    head: (key, options) => plan.run('head', () => store.head(key, options)),
    list: (prefix, options) => listing(store, plan, prefix, options),
    delete: (keys, options) => plan.run('delete', () => store.delete(keys, options)),
    location: (key) => store.location(key),
    keyOf: (location) => store.keyOf(location),
    localPath: (key) => store.localPath(key),
    close: () => store.close(),
  };
}

async function* listing(
  store: ObjectStore,
  plan: FaultPlan,
  ...[prefix, options]: Parameters<ObjectStore['list']>
): AsyncGenerator<ObjectInfo> {
  yield* await plan.run('list', async () => store.list(prefix, options));
}
