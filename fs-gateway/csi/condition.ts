/** Whether volumes can be used: their metadata has answered, or there would be no answer at all; their object store is asked, once for a call. */
import { assertStore } from './backend.ts';
import type { Secrets } from './secrets.ts';

interface VolumeCondition {
  readonly abnormal: boolean;
  readonly message: string;
}

export class StoreConditions {
  readonly #secrets: Secrets;
  readonly #known = new Map<string, Promise<VolumeCondition>>();

  constructor(secrets: Secrets) {
    this.#secrets = secrets;
  }

  of(store: string | undefined): Promise<VolumeCondition> {
    if (store === undefined) return Promise.resolve({ abnormal: true, message: 'the record of its home is gone' });
    const known = this.#known.get(store);
    if (known !== undefined) return known;
    const asked = assertStore(store, this.#secrets).then(
      () => ({ abnormal: false, message: 'metadata and object store answer' }),
      (error: unknown) => ({ abnormal: true, message: error instanceof Error ? error.message : String(error) }),
    );
    this.#known.set(store, asked);
    return asked;
  }
}
