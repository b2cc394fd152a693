/**
 * Run as a process by compaction.test.ts: appends numbered readings without end, of which every hundredth is never delivered, into a spool
 * that is small enough to compact all the time, and prints the last number of each group once that is acknowledged.
 */
import { openSpool } from '../../../agent/spool/spool.ts';

const [dir = ''] = process.argv.slice(2);
const spool = await openSpool({ dir, agent: 'a', maxBytes: 1_048_576, whenFull: 'reject' });
for (let n = Number(spool.checkpoint('s') ?? 0); ; n += 20) {
  const readings = Array.from({ length: 20 }, (_, index) => ({
    topic: (n + index + 1) % 100 === 0 ? 'held' : 'good',
    key: 'k',
    value: `${n + index + 1}`.padEnd(1000, '.'),
    eventUs: 1,
    arrivalUs: 1,
    priority: 4,
  }));
  await spool.append(readings, [{ source: 's', state: n + 20 }]);
  spool.acknowledge('good', spool.lastSeq('good'));
  process.stdout.write(`${n + 20}\n`);
}
