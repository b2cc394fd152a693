/**
 * Sends until it is killed or done: `node sender-child.ts DIR COUNT ORDER [KILL]`. Prints how many it has delivered, and "done" at the end;
 * when it is to be killed at KILL, there is something left to do, however late that comes. Under `liveFirst` each run adds a few readings, and
 * the rest is its backlog.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { join } from 'node:path';
import { openFileLogAt } from '../../../lib/log/file/file-log.ts';
import { systemClock } from '../../../lib/clock.ts';
import { GeneratedSpool } from './generated-spool.ts';
import { startUplink } from './start-uplink.ts';
import { HANG_MS } from '../../support/hang.ts';

const [directory = '', count = '', order = '', killAt = 'Infinity'] = process.argv.slice(2);
const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 32 * 1024, clock: systemClock });
// The spool is filled step by step, so that a run is many batches.
const isLiveFirst = order === 'liveFirst';
const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), isLiveFirst ? 10_000 : 0, new Map(), 3001n);
spool.arrivesNow = true;
const read = spool.read.bind(spool);
if (isLiveFirst) spool.read = (topic, afterSeq, maxBytes) => read(topic, afterSeq, Math.min(maxBytes, 8000));
const uplink = await startUplink(log, spool, directory, isLiveFirst ? { order: 'liveFirst' } : {});
const target = Number(count);
for (let last = Number(spool.lastSeq('t')); last < target; last += 50) {
  spool.grow(Math.min(50, target - last));
  await delay(1);
  const { delivered } = uplink.status();
  process.stdout.write(`${delivered}\n`);
  if (delivered > Number(killAt) + 1000) await delay(HANG_MS);
}
const drained = await uplink.drain(HANG_MS);
await uplink.close();
await log.close();
process.stdout.write(drained ? 'done\n' : 'late\n');
