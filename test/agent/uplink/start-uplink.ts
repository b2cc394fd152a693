import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { Uplink, type UplinkOptions } from '../../../agent/uplink/uplink.ts';
import type { SpoolReader } from '../../../agent/spool/spool-reader.ts';
import { systemClock } from '../../../lib/clock.ts';
import { openFileLogAt } from '../../../lib/log/file/file-log.ts';
import type { Log } from '../../../lib/log/log.ts';

/** Closed when the test ends. */
export async function openLog(directory: string): Promise<Log> {
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
  onTestFinished(() => log.close());
  return log;
}

/** Closes it when the test ends. */
export function closing(uplink: Uplink): Uplink {
  onTestFinished(() => uplink.close());
  return uplink;
}

/** An uplink with short waits; a test overrides what it is about. */
export function startUplink(
  log: Log,
  spool: SpoolReader,
  directory: string,
  overrides: Partial<UplinkOptions> = {},
): Promise<Uplink> {
  return Uplink.start({
    log,
    spool,
    directory,
    topics: { partitions: 3, retentionMs: 3_600_000 },
    compression: 'none',
    lingerMs: 1,
    bytesInMemoryMax: 4 << 20,
    order: 'oldestFirst',
    budget: { bytesPerSecond: 0, bytesPerDay: 0 },
    backoff: { minMs: 1, maxMs: 20, random: Math.random },
    clock: systemClock,
    ...overrides,
  });
}
