/** Volumes for tests: SQLite and a directory of this machine by default, opened without a mount or mounted under a guard. */
import { join } from 'node:path';
import { afterAll, beforeAll, onTestFinished } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { formatVolume, mountVolume } from '../../fs-gateway/main.ts';
import type { VolumeMountRequest } from '../../fs-gateway/main.ts';
import { openVolume } from '../../fs-gateway/open-volume.ts';
import type { OpenVolume, VolumeOptions } from '../../fs-gateway/open-volume.ts';
import type { Caller, KernelNotifier } from '../../fs-gateway/vfs/operations.ts';
import { startRedis } from './redis.ts';
import type { RedisServer } from './redis.ts';
import { startVersitygw } from './versitygw.ts';
import type { S3Server } from './versitygw.ts';
import { guardMount, killIfAlive, mountDirs } from './mount-guard.ts';
import { tempDir } from './temp.ts';

export interface TestVolume {
  readonly base: string;
  readonly metaUrl: string;
  readonly storeDir: string;
}

/** A formatted volume `lake`; what it is made of is removed with the test. */
export async function testVolume(
  options: Readonly<Record<string, string>> = {},
  base = tempDir('volume'),
): Promise<TestVolume> {
  const metaUrl = `sqlite:${join(base, 'meta.db')}?durability=flush`;
  const storeDir = join(base, 'objects');
  await formatVolume({ metaUrl, storeUrl: `dir:${storeDir}`, options });
  return { base, metaUrl, storeDir };
}

/** Makes a formatted volume with these options of the format. */
export type NewVolume = (options?: Readonly<Record<string, string>>) => Promise<TestVolume>;

export interface Services {
  readonly redis: RedisServer;
  readonly s3: S3Server;
  /** A formatted volume over both, in a database of its own. */
  readonly volume: NewVolume;
  stop(): Promise<void>;
}

/** Redis and an S3 server, for `beforeAll`; the caller stops them. */
export async function startServices(...redisArgs: readonly string[]): Promise<Services> {
  const [redis, s3] = await Promise.all([startRedis(...redisArgs), startVersitygw()]);
  s3.createBucket('volumes');
  // The credential chain of the AWS SDK, also in the processes of a mount.
  process.env['AWS_ACCESS_KEY_ID'] = s3.accessKeyId;
  process.env['AWS_SECRET_ACCESS_KEY'] = s3.secretAccessKey;
  let volumes = 0;
  return {
    redis,
    s3,
    async volume(options = {}) {
      const prefix = `v${volumes++}`;
      const metaUrl = `redis://127.0.0.1:${redis.port}/${volumes}`;
      const storeUrl = `s3://volumes/${prefix}?endpoint=${s3.endpoint}&region=us-east-1`;
      await formatVolume({ metaUrl, storeUrl, options });
      return { base: tempDir('volume'), metaUrl, storeDir: join(s3.folder, 'volumes', prefix) };
    },
    async stop() {
      await Promise.all([redis.stop(), s3.stop()]);
    },
  };
}

/** The virtual file system of a volume, without a mount. `name` tells the mounts of one volume apart. */
export async function openTestVolume(
  volume: TestVolume,
  name = 'a',
  reports: string[] = [],
  volumeName = 'lake',
  more: Pick<
    Partial<VolumeOptions>,
    | 'passthrough'
    | 'kernel'
    | 'writeback'
    | 'openCache'
    | 'cacheBytes'
    | 'cacheGroup'
    | 'mountpoint'
    | 'mountLife'
    | 'stagedMax'
    | 'cacheDir'
    | 'engineDeadlineMs'
  > = {},
  notifier?: KernelNotifier,
): Promise<OpenVolume> {
  const opened = await openVolume(
    {
      metaUrl: volume.metaUrl,
      volume: volumeName,
      cacheDir: join(volume.base, `cache-${name}`),
      cacheBytes: 64e6,
      mountpoint: `/nowhere/${name}`,
      ttlMs: 1000,
      ...more,
    },
    systemClock,
    notifier,
    (message) => reports.push(message),
  );
  let closed: Promise<void> | undefined;
  const once = { ...opened, close: () => (closed ??= opened.close()) };
  onTestFinished(() => once.close());
  return once;
}

let operations = 0;

export function caller(uid = 0, gid = 0): Caller {
  return { uid, gid, pid: 1, operation: `test-${operations++}`, signal: new AbortController().signal };
}

export interface MountedVolume extends TestVolume {
  readonly mountpoint: string;
  readonly supervisorPid: number;
  readonly logPath: string;
  readonly passthroughProblem: string | undefined;
  readonly storeProblem: string | undefined;
}

export interface TestMountOptions extends Pick<
  VolumeMountRequest,
  'passthrough' | 'writeback' | 'cacheBytes' | 'cacheDir' | 'cacheGroup' | 'peerListen'
> {
  /** Where an earlier mount was. */
  readonly at?: Pick<MountedVolume, 'base' | 'mountpoint'>;
}

/** A mounted volume; unmounted by force when the test ends. */
export async function mountTestVolume(
  volume?: TestVolume,
  { at, ...options }: TestMountOptions = {},
): Promise<MountedVolume> {
  const { base, mountpoint } = at ?? mountDirs();
  const mounted = volume ?? (await testVolume({}, base));
  const logPath = join(base, 'mount.log');
  guardMount(mountpoint);
  const { supervisorPid, passthroughProblem, storeProblem } = await mountVolume({
    metaUrl: mounted.metaUrl,
    mountpoint,
    cacheDir: join(base, 'cache'),
    cacheBytes: 256e6,
    ...options,
    background: true,
    logPath,
  });
  onTestFinished(() => killIfAlive(-supervisorPid)); // its whole process group: the worker too
  return { ...mounted, base, mountpoint, supervisorPid, logPath, passthroughProblem, storeProblem };
}

/** Cases that take any volume, on Redis and S3. */
export function onServices(cases: (newVolume: NewVolume) => void): void {
  let services: Services | undefined;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services?.stop());
  cases(async (options) => {
    if (services === undefined) throw new Error('the services have not started');
    return services.volume(options);
  });
}
