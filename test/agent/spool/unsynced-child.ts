/** Run as a process by power-cut.test.ts: stores `one`, then writes `two`, says so while its sync has not begun, and waits to be killed. */
import { open } from 'node:fs/promises';
import type { NewReading } from '../../../agent/spool/frame.ts';
import { openSpool } from '../../../agent/spool/spool.ts';

const [dir = ''] = process.argv.slice(2);
const readingOf = (value: string): NewReading => ({
  topic: 't',
  key: 'k',
  value,
  eventUs: 1,
  arrivalUs: 1,
  priority: 4,
});
const spool = await openSpool({ dir, agent: 'a', maxBytes: 1e9, whenFull: 'reject' });
await spool.append([readingOf('one')], [{ source: 's', state: 'one' }]);
const handle = await open(process.execPath);
const prototype = Object.getPrototypeOf(handle) as typeof handle; // the class is not exported
prototype.datasync = async () => {
  process.stdout.write('written\n');
  await new Promise<never>(() => setInterval(() => undefined, 1000));
};
await spool.append([readingOf('two')], [{ source: 's', state: 'two' }]);
