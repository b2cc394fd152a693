/**
 * Appends to topic `t`, one record a batch, five in flight, until it is killed: `node appender-child.ts DIR LABEL COUNT SEGMENT_BYTES`.
 * Prints `<offset> <value>` for every acknowledged append.
 */
import { openFileLogAt } from '../../lib/log/file/file-log.ts';
import { systemClock } from '../../lib/clock.ts';
import { textBatch } from '../support/log-batches.ts';

const [directory = '', label = '', count = '', segmentBytes = ''] = process.argv.slice(2);
const log = await openFileLogAt(directory, { segmentBytes: Number(segmentBytes), clock: systemClock });
await log.ensureTopic('t', { partitions: 1, retentionMs: 3_600_000 });
const producer = await log.producer();
for (let i = 0; i < Number(count); i += 5) {
  const appends = [0, 1, 2, 3, 4].map(async (k) => {
    const value = `${label}-${i + k}`;
    const { baseOffset } = await producer.append('t', 0, textBatch([value], producer, i + k));
    process.stdout.write(`${baseOffset} ${value}\n`);
  });
  await Promise.all(appends);
}
await log.close();
