/**
 * The agent's spool: readings per second and CPU per reading, with group fdatasync, 200-byte values, many sources at once.
 *
 *   node bench/spool.ts [--seconds 10] [--sources 4] [--batch 500] [--topics 3] [--bytes 200]
 *
 * `--batch 1` is the worst case: every reading waits for its own acknowledgement (that needs many sources: try --sources 2000).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openSpool, type Spool } from '../agent/spool/spool.ts';
import { formatBytes } from '../lib/units.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    sources: { type: 'string', default: '4' },
    batch: { type: 'string', default: '500' },
    topics: { type: 'string', default: '3' },
    bytes: { type: 'string', default: '200' },
    dir: { type: 'string', default: tmpdir() },
  },
});
const [seconds, sources, batch, topics, bytes] = [values.seconds, values.sources, values.batch, values.topics, values.bytes].map(Number) as [number, number, number, number, number]; // prettier-ignore

const dir = mkdtempSync(join(values.dir, 'penstock-bench-spool-'));
const spool = await openSpool({ dir, agent: 'bench', maxBytes: 200e9, whenFull: 'reject' });
const latenciesMs: number[] = [];
let appended = 0;

async function source(index: number, until: number): Promise<void> {
  const topic = `topic-${index % topics}`;
  const value = Buffer.alloc(bytes, 'v');
  while (performance.now() < until) {
    const nowUs = Date.now() * 1000;
    const readings = Array.from({ length: batch }, (_, reading) => ({
      topic,
      key: `sensor-${reading % 100}`,
      value,
      eventUs: nowUs,
      arrivalUs: nowUs,
      priority: 4,
    }));
    const start = performance.now();
    await spool.append(readings);
    latenciesMs.push(performance.now() - start);
    appended += batch;
  }
}

/** Delivers at once, so that segments are deleted as in life; its cost is not counted as it only acknowledges. */
function acknowledgeAll(target: Spool): void {
  for (const topic of target.topics()) target.acknowledge(topic, target.lastSeq(topic));
}

try {
  const timer = setInterval(() => acknowledgeAll(spool), 200);
  const cpuStart = process.cpuUsage();
  const start = performance.now();
  await Promise.all(Array.from({ length: sources }, (_, index) => source(index, start + seconds * 1000)));
  const elapsed = (performance.now() - start) / 1000;
  const cpu = process.cpuUsage(cpuStart);
  clearInterval(timer);
  await spool.close();
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number): string => (latenciesMs[Math.floor(latenciesMs.length * share)] ?? 0).toFixed(1);
  const cpuUs = cpu.user + cpu.system;
  process.stdout.write(
    [
      `machine: ${cpus().length} x ${cpus()[0]?.model ?? '?'}, Node ${process.version}, ${values.dir}`,
      `parameters: ${sources} sources, batches of ${batch}, ${topics} topics, values of ${bytes} bytes, ${elapsed.toFixed(1)} s`,
      `${Math.round(appended / elapsed)} readings/s, ${formatBytes((appended * bytes) / elapsed)}/s of values`,
      `${(cpuUs / appended).toFixed(2)} us of CPU per reading = ${Math.round((appended / cpuUs) * 1e6)} readings per CPU-second`,
      `append until durable: median ${at(0.5)} ms, 99 % ${at(0.99)} ms`,
      `resident memory ${formatBytes(process.memoryUsage.rss())}`,
      '',
    ].join('\n'),
  );
} finally {
  rmSync(dir, { recursive: true, force: true });
}
