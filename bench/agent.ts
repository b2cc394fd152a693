/**
 * A whole agent beside a real Kafka broker, each phase in a process of its own, by what /proc says of it:
 *
 *   file     lines of a file into Kafka: readings per second, CPU per reading; beside rsyslog's omkafka where it is installed (Debian: rsyslog-kafka)
 *   drain    a backlog of readings, while new ones arrive: readings per second, and how long the new ones take into the broker
 *   idle     one file source and a broker that does not answer: resident memory and CPU
 *
 *   node bench/agent.ts [--phases file,drain,idle] [--lines 500000] [--rounds 1] [--backlog 1000000] [--live 1000] [--idle 30] [--program PATH]
 *
 * `--live`: new readings per second; `--idle`: seconds. The broker is started for it (node bin/install.mjs --services installs it). `--program`: the
 * `penstock` of an installed package, which is what users run; the default is this checkout, with Node's type stripping in its CPU and memory.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  closeSync,
  existsSync,
  globSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { decodeRecords } from '../lib/log/batch-reader.ts';
import { openLog } from '../lib/registry.ts';
import { KafkaBroker } from '../test/support/kafka.ts';
import { makeTempDir } from '../test/support/temp.ts';
import { freePorts } from '../test/support/ports.ts';
import { cpuSecondsOf } from './memory-sampler.ts';

const { values } = parseArgs({
  options: {
    phases: { type: 'string', default: 'file,drain,idle' },
    lines: { type: 'string', default: '500000' },
    rounds: { type: 'string', default: '1' },
    program: { type: 'string', default: fileURLToPath(new URL('../bin/penstock', import.meta.url)) },
    backlog: { type: 'string', default: '1000000' },
    live: { type: 'string', default: '1000' },
    idle: { type: 'string', default: '30' },
  },
});
const LINE_BYTES = 200;
const DEADLINE_MS = 300_000;
const LIVE_GOAL_MS = 100;
const LIVE_EVERY_MS = 5;

interface Usage {
  readonly cpuSeconds: number;
  readonly rssBytes: number;
}

class Agent {
  readonly #child: ChildProcess;
  readonly #port: number;

  constructor(dir: string, port: number, log: string, sources: string) {
    this.#port = port;
    const path = join(dir, 'agent.yaml');
    writeFileSync(
      path,
      `agent: { id: bench, dataDir: ./agent, listen: "127.0.0.1:${port}" }\nlog: ${log}\nsources:\n${sources}`,
    );
    const output = openSync(join(dir, 'output'), 'a');
    this.#child = spawn(values.program, ['agent', 'run', '-c', path], { stdio: ['ignore', output, output] });
    closeSync(output);
  }

  usage(): Usage {
    const pid = this.#child.pid ?? 0; // it has been started
    const kib = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
    return { cpuSeconds: cpuSecondsOf(pid), rssBytes: kib * 1024 };
  }

  async metric(name: string, topic: string): Promise<number> {
    const answer = await fetch(`http://127.0.0.1:${this.#port}/metrics`, { signal: AbortSignal.timeout(5000) });
    const line = (await answer.text())
      .split('\n')
      .find((each) => each.startsWith(`penstock_agent_${name}{topic="${topic}"}`));
    return Number(line?.split(' ').at(-1) ?? NaN);
  }

  async until(what: string, isSo: () => Promise<boolean>): Promise<void> {
    for (const end = performance.now() + DEADLINE_MS; !(await isSo().catch(() => false));) {
      // Each look has the agent read of its spool: it is in the CPU that is measured.
      await delay(100);
      if (this.#child.exitCode !== null) throw new Error(`the agent ended: status ${this.#child.exitCode}`);
      if (performance.now() > end) throw new Error(`not within ${DEADLINE_MS / 1000} s: ${what}`);
    }
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill(signal);
    await exited;
  }
}

function writeLines(path: string, count: number): void {
  const file = openSync(path, 'a');
  for (let first = 0; first < count; first += 1000) {
    const lines = Array.from({ length: Math.min(1000, count - first) }, (_, index) => {
      const n = first + index;
      const text = `{"id":"s${n % 100}","n":${n},"ts":${1_790_000_000_000 + n},"rms":${((n * 31) % 997) / 7},"state":"`;
      return `${text.padEnd(LINE_BYTES - 3, 'running ')}"}\n`;
    });
    writeSync(file, lines.join(''));
  }
  closeSync(file);
}

/** What else the machine does decides about latencies. */
function loadText(): string {
  return `load ${loadavg()[0]?.toFixed(1)}`;
}

function say(text: string): void {
  console.log(text);
}

async function measureFile(dir: string, port: number, log: string, topic: string): Promise<void> {
  const lines = Number(values.lines);
  writeLines(join(dir, 'lines.ndjson'), lines);
  const agent = new Agent(dir, port, log, `  - { type: file, path: ./lines.ndjson, sensor: id, to: ${topic} }\n`);
  const start = performance.now();
  try {
    await agent.until(
      'all lines are delivered',
      async () => (await agent.metric('topic_delivered_total', topic)) === lines,
    );
    const seconds = (performance.now() - start) / 1000;
    const { cpuSeconds, rssBytes } = agent.usage();
    say(
      `file: ${lines} lines of ${LINE_BYTES} bytes in ${seconds.toFixed(1)} s with the start: ${Math.round(lines / seconds)}/s, ` +
        `${((cpuSeconds / lines) * 1e6).toFixed(2)} us of CPU a line, the start included; ${Math.round(rssBytes / 1e6)} MB resident`,
    );
  } finally {
    await agent.end();
  }
}

/** The same lines by rsyslog: read with inotify, sent in batches with acknowledgements of all replicas, position and queue only in memory. */
async function measureRsyslog(dir: string, log: string): Promise<void> {
  const lines = Number(values.lines);
  writeLines(join(dir, 'lines.ndjson'), lines);
  const broker = log.slice('kafka://'.length);
  writeFileSync(
    join(dir, 'rsyslog.conf'),
    `global(workDirectory="${dir}" maxMessageSize="64k")
module(load="imfile")
module(load="omkafka")
template(name="raw" type="string" string="%msg%")
input(type="imfile" File="${join(dir, 'lines.ndjson')}" Tag="bench" Ruleset="kafka")
ruleset(name="kafka") {
  action(type="omkafka" broker=["${broker}"] topic="rsyslog" template="raw" action.resumeRetryCount="-1"
    confParam=["acks=all", "compression.codec=zstd", "linger.ms=20", "queue.buffering.max.messages=${lines}"])
}
`,
  );
  const output = openSync(join(dir, 'output'), 'a');
  const started = spawn('rsyslogd', ['-n', '-f', join(dir, 'rsyslog.conf'), '-i', join(dir, 'pid')], {
    stdio: ['ignore', output, output],
  });
  closeSync(output);
  const reader = await openLog(log);
  await reader.ensureTopic('rsyslog', { partitions: 3, retentionMs: 86_400_000 });
  const start = performance.now();
  try {
    const delivered = async (): Promise<number> => {
      const topic = await reader.topic('rsyslog');
      let sum = 0;
      for (let partition = 0; partition < (topic?.partitions ?? 0); partition += 1) {
        sum += Number((await reader.offsets('rsyslog', partition)).end);
      }
      return sum;
    };
    const before = await delivered();
    while ((await delivered()) - before < lines) {
      await delay(100);
      if (started.exitCode !== null || performance.now() - start > DEADLINE_MS) {
        throw new Error(
          `rsyslog delivered ${(await delivered()) - before} of ${lines} lines: ${readFileSync(join(dir, 'output'), 'utf8')}`,
        );
      }
    }
    const seconds = (performance.now() - start) / 1000;
    const cpuSeconds = cpuSecondsOf(started.pid ?? 0);
    say(
      `rsyslog: the same lines in ${seconds.toFixed(1)} s: ${Math.round(lines / seconds)}/s, ` +
        `${((cpuSeconds / lines) * 1e6).toFixed(2)} us of CPU a line, nothing synced to the disk`,
    );
  } finally {
    await reader.close();
    const exited = once(started, 'exit');
    if (started.exitCode === null && started.kill('SIGKILL')) await exited;
  }
}

/** Debian's package puts it where only root looks. */
function hasRsyslog(): boolean {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin'];
  const isThere = folders.some((folder) => existsSync(join(folder, 'rsyslogd')));
  return isThere && globSync('/usr/lib/*/rsyslog/omkafka.so').length > 0;
}

async function measureDrain(dir: string, port: number, log: string): Promise<void> {
  const backlog = Number(values.backlog);
  writeLines(join(dir, 'backlog.ndjson'), backlog);
  const sources = `  - { type: file, path: ./backlog.ndjson, sensor: id, to: backlog }
  - { type: file, path: ./live.ndjson, sensor: id, to: live, poll: 10ms }
`;
  const filling = new Agent(dir, port, 'kafka://127.0.0.1:1', sources);
  try {
    await filling.until(
      'the backlog is spooled',
      async () => (await filling.metric('topic_readings_total', 'backlog')) === backlog,
    );
    say(`drain: with ${backlog} readings spooled, ${Math.round(filling.usage().rssBytes / 1e6)} MB resident`);
  } finally {
    await filling.end('SIGKILL');
  }
  let live = 0;
  const startMs = performance.now();
  const writer = setInterval(() => {
    const due = Math.floor(((performance.now() - startMs) / 1000) * Number(values.live));
    const lines = Array.from(
      { length: due - live },
      (_, index) => `{"id":"s${(live + index) % 10}","n":${live + index}}\n`,
    );
    if (lines.length > 0) appendFileSync(join(dir, 'live.ndjson'), lines.join(''));
    live = due;
  }, LIVE_EVERY_MS);
  const agent = new Agent(dir, port, log, sources);
  try {
    let from = { ms: 0, wallMs: 0, cpuSeconds: 0 };
    await agent.until('it delivers', async () => {
      from = { ms: performance.now(), wallMs: Date.now(), cpuSeconds: agent.usage().cpuSeconds };
      return (await agent.metric('topic_delivered_total', 'backlog')) > 0;
    });
    let peak = 0;
    await agent.until('the backlog is delivered', async () => {
      peak = Math.max(peak, agent.usage().rssBytes);
      return (await agent.metric('topic_lag_readings', 'backlog')) === 0;
    });
    const untilMs = Date.now();
    const seconds = (performance.now() - from.ms) / 1000;
    const cpuSeconds = agent.usage().cpuSeconds - from.cpuSeconds;
    clearInterval(writer);
    say(
      `drain: ${Math.round(backlog / seconds)} readings/s (${seconds.toFixed(1)} s), ${((cpuSeconds / backlog) * 1e6).toFixed(2)} us of CPU a reading, ` +
        `at most ${Math.round(peak / 1e6)} MB resident`,
    );
    await agent.until(
      'the new ones are delivered',
      async () => (await agent.metric('topic_delivered_total', 'live')) === live,
    );
    const late = await latenciesOf(log, 'live', from.wallMs, untilMs);
    const at = (part: number): number => late[Math.floor(late.length * part)] ?? NaN;
    const share = late.filter((ms) => ms <= LIVE_GOAL_MS).length / late.length;
    say(
      `drain: of ${late.length} new readings ${(100 * share).toFixed(2)} % were in the broker within ${LIVE_GOAL_MS} ms of their arrival; ` +
        `median ${at(0.5)} ms, 99 % ${at(0.99)} ms, 99.9 % ${at(0.999)} ms, longest ${late.at(-1)} ms; ${loadText()}`,
    );
  } finally {
    clearInterval(writer);
    await agent.end();
  }
}

/** From the arrival at the agent to the broker's own time, of the readings that arrived between two times of the wall clock; ascending. */
async function latenciesOf(url: string, topic: string, fromMs: number, toMs: number): Promise<number[]> {
  const log = await openLog(url);
  const found: number[] = [];
  try {
    for (let partition = 0; partition < ((await log.topic(topic))?.partitions ?? 0); partition += 1) {
      const { earliest, end } = await log.offsets(topic, partition);
      for (let offset = earliest; offset < end;) {
        const result = await log.fetch({ topic, partition, offset, maxBytes: 1 << 20, maxWaitMs: 0 });
        for (const batch of result.batches) {
          // LogAppendTime: the broker's time of the batch is its maximum timestamp.
          const storedMs = Number(batch.readBigInt64BE(35));
          for (const { headers } of decodeRecords(batch, topic)) {
            const of = (name: string): number => Number(headers.find(([key]) => key === name)?.[1]?.toString());
            const arrivalMs = of('arrival') / 1000;
            if (arrivalMs >= fromMs && arrivalMs <= toMs) found.push(storedMs - arrivalMs);
          }
        }
        offset = result.nextOffset;
      }
    }
  } finally {
    await log.close();
  }
  return found.map(Math.round).sort((a, b) => a - b);
}

async function measureIdle(dir: string, port: number): Promise<void> {
  writeFileSync(join(dir, 'one.ndjson'), '{"id":"a","n":1}\n');
  const agent = new Agent(
    dir,
    port,
    'kafka://127.0.0.1:1',
    '  - { type: file, path: ./one.ndjson, sensor: id, to: one }\n',
  );
  try {
    await agent.until('the line is spooled', async () => (await agent.metric('topic_readings_total', 'one')) === 1);
    await delay(5000);
    const before = agent.usage();
    await delay(Number(values.idle) * 1000);
    const after = agent.usage();
    const share = (after.cpuSeconds - before.cpuSeconds) / Number(values.idle);
    say(`idle: ${(after.rssBytes / 1e6).toFixed(1)} MB resident, ${(100 * share).toFixed(2)} % of a core`);
  } finally {
    await agent.end();
  }
}

say(`${cpus().length} x ${cpus()[0]?.model ?? 'unknown CPU'}, node ${process.version}, ${JSON.stringify(values)}`);
const dir = makeTempDir('agent-bench');
const phases = values.phases.split(',');
const broker = phases.some((phase) => phase !== 'idle') ? await KafkaBroker.start() : undefined;
try {
  const rounds = phases.flatMap((phase) =>
    phase === 'file' ? new Array<string>(Number(values.rounds)).fill(phase) : [phase],
  );
  for (const [index, phase] of rounds.entries()) {
    const ofPhase = join(dir, `${phase}-${index}`);
    mkdirSync(ofPhase);
    const [port = 0] = await freePorts(1);
    const log = `kafka://${broker?.plain ?? '127.0.0.1:1'}`;
    if (phase === 'file') {
      await measureFile(ofPhase, port, log, `lines-${index}`);
      mkdirSync(join(ofPhase, 'rsyslog'));
      if (hasRsyslog()) await measureRsyslog(join(ofPhase, 'rsyslog'), log);
      else say('rsyslog: not installed with its module omkafka');
    } else if (phase === 'drain') await measureDrain(ofPhase, port, log);
    else if (phase === 'idle') await measureIdle(ofPhase, port);
    else throw new Error(`unknown phase ${phase}: expected file, drain, idle`);
  }
} finally {
  await broker?.close();
  rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
}
