/** Mounts of a bucket by other programs: what is below a prefix of the `penstock` bucket of servers.ts, as files. */
import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { BUCKET, credentials, type MountPlace } from './servers.ts';

const run = promisify(execFile);

export interface BucketMount {
  readonly label: string;
  /** `prefix` ends with `/`. */
  readonly mount: (place: MountPlace, s3Port: number, prefix: string) => Promise<void>;
}

interface MountedBucket {
  readonly place: MountPlace;
  readonly mount: () => Promise<void>;
  readonly unmount: () => Promise<void>;
}

/** Its folders are in `dir`. */
export function mountBucket(dir: string, s3Port: number, prefix: string, program: BucketMount): MountedBucket {
  const name = program.label.replaceAll(/\W+/g, '-');
  const place = { path: join(dir, `mount-${name}`), cacheDir: join(dir, `cache-${name}`) };
  return {
    place,
    mount: () => program.mount(place, s3Port, prefix),
    async unmount() {
      await run('umount', [place.path]);
    },
  };
}

/** `cached`: it keeps what it has read in the place's cache directory, and believes names for a minute. */
export function mountpointS3(program: string, cached: boolean): BucketMount {
  return {
    label: cached ? 'mount-s3 --cache' : 'mount-s3',
    async mount({ path, cacheDir }, s3Port, prefix) {
      for (const dir of [path, cacheDir]) mkdirSync(dir, { recursive: true });
      const where = ['--endpoint-url', `http://127.0.0.1:${s3Port}`, '--force-path-style', '--region', 'us-east-1'];
      const args = [BUCKET, path, '--prefix', prefix, ...where, ...(cached ? ['--cache', cacheDir] : [])];
      // Without the last it waits for a service of EC2 that is not there.
      const env = { ...process.env, ...credentials, AWS_EC2_METADATA_DISABLED: 'true' };
      await run(program, args, { env });
    },
  };
}

export function s3fs(program: string): BucketMount {
  return {
    label: 's3fs',
    async mount({ path, cacheDir }, s3Port, prefix) {
      for (const dir of [path, cacheDir]) mkdirSync(dir, { recursive: true });
      const passwords = join(cacheDir, 'passwd');
      writeFileSync(passwords, `${credentials.AWS_ACCESS_KEY_ID}:${credentials.AWS_SECRET_ACCESS_KEY}`, {
        mode: 0o600,
      });
      const where = [`url=http://127.0.0.1:${s3Port}`, 'use_path_request_style', `passwd_file=${passwords}`];
      const options = [...where, `use_cache=${join(cacheDir, 'data')}`].flatMap((o) => ['-o', o]);
      await run(program, [`${BUCKET}:/${prefix.slice(0, -1)}`, path, ...options]);
    },
  };
}
