/**
 * Days without a link: an agent whose broker does not answer takes readings by HTTP until its spool is full, is killed -9, starts again, and
 * drains into a real Kafka broker. What /proc says of its memory at each step; it must not grow with the backlog.
 *
 *   node bench/backlog.ts [--bytes 10e9] [--reading 1000] [--program PATH] [--dir DIR]
 *
 * The broker keeps 100 MB of a partition only: `--dir` (default: the system's folder for temporary files) needs `--bytes` and 2 GB more. `--program`:
 * the `penstock` of an installed package; the default is this checkout. Kafka is installed by node bin/install.mjs --services.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openLog } from '../lib/registry.ts';
import { KafkaBroker } from '../test/support/kafka.ts';
import { freePorts } from '../test/support/ports.ts';

const { values } = parseArgs({
  options: {
    bytes: { type: 'string', default: '10e9' },
    reading: { type: 'string', default: '1000' },
    program: { type: 'string', default: fileURLToPath(new URL('../bin/penstock', import.meta.url)) },
    dir: { type: 'string', default: tmpdir() },
  },
});
const SENDERS = 2;
const READINGS_PER_REQUEST = 2000;
const STEPS = 10;
const DEADLINE_MS = 3_600_000;
const bytesMax = Number(values.bytes);
const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`;

interface Status {
  readonly readings: number;
  readonly delivered: number;
  readonly spool: { readonly bytes: number };
}

class Agent {
  readonly #child: ChildProcess;
  readonly #port: number;

  constructor(dir: string, port: number, ingest: number, log: string) {
    this.#port = port;
    const path = join(dir, 'agent.yaml');
    writeFileSync(
      path,
      `agent: { id: bench, dataDir: ./agent, listen: "127.0.0.1:${port}" }
log: ${log}
spool: { maxBytes: ${bytesMax} }
sources: [{ type: http, listen: "127.0.0.1:${ingest}", to: backlog, sensor: id }]
`,
    );
    const output = openSync(join(dir, 'output'), 'a');
    this.#child = spawn(values.program, ['agent', 'run', '-c', path], { stdio: ['ignore', output, output] });
    closeSync(output);
  }

  /** Resident now, and the kernel's high-water mark. */
  memory(): { readonly now: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.#child.pid ?? 0}/status`, 'utf8');
    const bytes = (key: string): number => 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1]);
    return { now: bytes('VmRSS'), peak: bytes('VmHWM') };
  }

  async status(): Promise<Status | null> {
    if (this.#child.exitCode !== null) throw new Error(`the agent ended: status ${this.#child.exitCode}`);
    const answer = await fetch(`http://127.0.0.1:${this.#port}/status`, { signal: AbortSignal.timeout(30_000) }).catch(
      () => null,
    );
    return answer === null ? null : ((await answer.json()) as Status); // our own agent's
  }

  /** Looks until `isDone`; says the memory each time a step further is done, in tenths. */
  async follow(what: string, stepOf: (status: Status) => number, isDone: (status: Status) => boolean): Promise<Status> {
    const start = performance.now();
    let said = 0;
    for (;;) {
      const status = await this.status();
      if (status !== null && stepOf(status) > said) {
        said = stepOf(status);
        const { now, peak } = this.memory();
        const seconds = Math.round((performance.now() - start) / 1000);
        console.log(
          `${what}: ${said} of ${STEPS} after ${seconds} s, spool ${megabytes(status.spool.bytes)}, ` +
            `resident ${megabytes(now)}, at most ${megabytes(peak)}; load ${loadavg()[0]?.toFixed(1)}`,
        );
      }
      if (status !== null && isDone(status)) return status;
      if (performance.now() - start > DEADLINE_MS) throw new Error(`${what}: not within an hour`);
      await delay(200);
    }
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill(signal);
    await exited;
  }
}

/** Posts the same readings again and again until the agent says that its spool is full. Returns how many it took. */
async function post(url: string, sender: number): Promise<number> {
  const body = Array.from({ length: READINGS_PER_REQUEST }, (_, index) => {
    const start = `{"id":"s${sender}-${index % 50}","n":${index},"text":"`;
    // Text that zstd makes about a third of, as of real logs.
    const words = Array.from({ length: 200 }, (_, word) => ((index * 7919 + word * 104_729) % 99_991).toString(36));
    return `${start}${words.join(' ').slice(0, Number(values.reading) - start.length - 3)}"}`;
  }).join('\n');
  for (let taken = 0; ; taken += READINGS_PER_REQUEST) {
    const answer = await fetch(url, { method: 'POST', body, headers: { 'content-type': 'application/x-ndjson' } });
    await answer.arrayBuffer();
    if (answer.status === 429) return taken;
    if (answer.status !== 200) throw new Error(`HTTP ${answer.status}`);
  }
}

console.log(
  `${cpus().length} x ${cpus()[0]?.model ?? 'unknown CPU'}, node ${process.version}, ${JSON.stringify(values)}`,
);
const dir = mkdtempSync(join(values.dir, 'penstock-bench-backlog-'));
const [port = 0, ingest = 0] = await freePorts(2);
let agent = new Agent(dir, port, ingest, 'kafka://127.0.0.1:1');
let broker: KafkaBroker | undefined;
try {
  while ((await agent.status()) === null) await delay(20);
  const sending = Promise.all(
    Array.from({ length: SENDERS }, (_, sender) => post(`http://127.0.0.1:${ingest}/`, sender)),
  );
  const parts = (bytes: number): number => Math.floor((STEPS * bytes) / bytesMax);
  const filled = await agent.follow(
    'fill',
    ({ spool }) => Math.min(STEPS, parts(spool.bytes)),
    ({ spool }) => spool.bytes > bytesMax,
  );
  const taken = (await sending).reduce((sum, count) => sum + count, 0);
  console.log(`fill: ${taken} readings of ${values.reading} bytes, ${megabytes(filled.spool.bytes)}`);
  await agent.end('SIGKILL');

  broker = await KafkaBroker.start();
  await broker.stop();
  broker.configure({
    'log.retention.bytes': '100000000',
    'log.segment.bytes': '50000000',
    'log.retention.check.interval.ms': '1000',
    'log.segment.delete.delay.ms': '1000',
  });
  await broker.start();
  const start = performance.now();
  agent = new Agent(dir, port, ingest, `kafka://${broker.plain}`);
  while ((await agent.status()) === null) await delay(20);
  console.log(
    `start with all of it behind kill -9: ${Math.round(performance.now() - start)} ms, resident ${megabytes(agent.memory().now)}`,
  );
  const drainMs = performance.now();
  await agent.follow(
    'drain',
    ({ delivered }) => Math.floor((STEPS * delivered) / taken),
    ({ delivered }) => delivered >= taken,
  );
  const seconds = (performance.now() - drainMs) / 1000;
  const log = await openLog(`kafka://${broker.plain}`);
  let inKafka = 0n;
  for (let partition = 0; partition < ((await log.topic('backlog'))?.partitions ?? 0); partition += 1) {
    inKafka += (await log.offsets('backlog', partition)).end;
  }
  await log.close();
  console.log(
    `drain: ${Math.round(taken / seconds)} readings/s, ${megabytes((taken * Number(values.reading)) / seconds)}/s; ` +
      `taken ${taken}, in Kafka ${inKafka}`,
  );
  process.exitCode = Number(inKafka) === taken ? 0 : 1;
} finally {
  await agent.end('SIGKILL');
  await broker?.close();
  rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
}
