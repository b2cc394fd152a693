/**
 * Run as a process by crash.test.ts: appends numbered readings without end, each with a receipt in place of that of three before,
 * and prints each number once it is acknowledged.
 */
import { openSpool } from '../../../agent/spool/spool.ts';

const [dir = '', start = '0'] = process.argv.slice(2);
const spool = await openSpool({
  dir,
  agent: 'a',
  maxBytes: 1e9,
  whenFull: 'reject',
  segmentBytes: 300_000,
});
// Eight sources at once, so that groups hold several appends; each source's numbers are its own.
await Promise.all(
  Array.from({ length: 8 }, async (_, source) => {
    for (let number = Number(start); ; number += 1) {
      const value = `${source}:${number}`.padEnd(40 + ((number * 37) % 2000), '.');
      const reading = { topic: `topic-${source % 2}`, key: null, value, eventUs: 1, arrivalUs: 1, priority: 4 };
      const receipts = [
        { source: String(source), id: String(number), content: 'c' },
        { source: String(source), id: String(number - 3), content: null },
      ];
      await spool.append([reading], [{ source: String(source), state: number }], receipts);
      process.stdout.write(`${source}:${number}\n`);
    }
  }),
);
