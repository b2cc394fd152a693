/**
 * A process that commits until it is killed: `meta-worker.ts URL NAME`. Commit n writes two records and adds to a number; `n` is printed
 * when it was acknowledged. The first line is the session's id.
 */
import { writeSync } from 'node:fs';
import { openMeta } from '../../lib/registry.ts';

const [url, name] = process.argv.slice(2);
if (url === undefined || name === undefined) throw new Error('usage: meta-worker.ts URL NAME');
const engine = await openMeta(url, { kind: 'worker', leaseMs: 2000 });
writeSync(1, `${engine.sessionId}\n`);

let next = 0;
async function commitOn(): Promise<void> {
  while (true) {
    const n = next++;
    const value = Buffer.from(String(n));
    const result = await engine.commit({
      compare: [{ key: { bucket: '{v}one', field: `${name}-${n}` }, version: null }],
      write: [
        { key: { bucket: '{v}one', field: `${name}-${n}` }, value },
        { key: { bucket: '{v}two', field: `${name}-${n}` }, value },
      ],
      patch: [{ number: { bucket: '{v}n', field: 'commits' }, add: 1n }],
    });
    if (!result.ok) throw new Error(`commit ${n} was refused`);
    writeSync(1, `${n}\n`);
  }
}
// Several at once, so that a kill meets commits in every state.
await Promise.all([commitOn(), commitOn(), commitOn()]);
