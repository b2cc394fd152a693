/** A real S3 server (versitygw) for a benchmark, whose credentials this process and its children then have. */
import { startVersitygw } from '../test/support/versitygw.ts';

export interface BenchStore {
  /** `store` of a configuration. */
  readonly url: string;
  /** Where its objects lie as files, by key. */
  readonly folder: string;
  stop(): Promise<void>;
}

export async function startS3Store(): Promise<BenchStore> {
  const server = await startVersitygw();
  server.createBucket('bench');
  process.env['AWS_ACCESS_KEY_ID'] = server.accessKeyId;
  process.env['AWS_SECRET_ACCESS_KEY'] = server.secretAccessKey;
  return {
    url: `s3://bench/lake?endpoint=${encodeURIComponent(server.endpoint)}`,
    folder: `${server.folder}/bench/lake`,
    stop: () => server.stop(),
  };
}
