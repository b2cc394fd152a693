/** What the CSI tests share: secrets of the test services, and requests. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Services } from '../support/fs-volume.ts';

/** Of database `n`; a bucket of the test's own is not needed, prefixes do. */
export function csiSecrets({ redis, s3 }: Services, n: number): Readonly<Record<string, string>> {
  return {
    meta: `redis://127.0.0.1:${redis.port}/${n}?deadline=8s`,
    store: `s3://volumes/csi-${n}?endpoint=${s3.endpoint}&region=us-east-1`,
    accessKeyId: s3.accessKeyId,
    secretAccessKey: s3.secretAccessKey,
  };
}

/** As Kubernetes mounts a Secret: a file for each key. */
export function secretsFolder(base: string, secrets: Readonly<Record<string, string>>): string {
  const folder = join(base, 'secrets');
  mkdirSync(folder);
  for (const [name, value] of Object.entries(secrets)) writeFileSync(join(folder, name), value);
  return folder;
}

export const WRITER = { mount: {}, accessMode: { mode: 'MULTI_NODE_MULTI_WRITER' } };

export function createRequest(name: string, secrets: object, requiredBytes: number): object {
  return { name, secrets, capacityRange: { requiredBytes }, volumeCapabilities: [WRITER] };
}

export interface MadeVolume {
  readonly volumeId: string;
  readonly capacityBytes: number;
  readonly volumeContext: Readonly<Record<string, string>>;
}

export function volumeOf(answer: Readonly<Record<string, unknown>>): MadeVolume {
  return answer['volume'] as MadeVolume; // of CreateVolumeResponse
}
