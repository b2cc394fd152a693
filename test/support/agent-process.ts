/** An agent as a process that is killed and started again, and what it brought into the log. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import { openLog } from '../../lib/registry.ts';

const childPath = fileURLToPath(new URL('../agent/agent-child.ts', import.meta.url));

export class AgentProcess {
  readonly #path: string;
  #child: ChildProcess | undefined;
  #exited: Promise<unknown> = Promise.resolve();
  /** Of the run that is under way. */
  output = '';

  /** Writes the configuration; nothing runs yet. `atEnd` takes what ends the process at the last. */
  constructor(dir: string, yaml: string, atEnd: (end: () => void) => void = onTestFinished) {
    this.#path = join(dir, 'agent.yaml');
    writeFileSync(this.#path, yaml);
    atEnd(() => void this.#child?.kill('SIGKILL'));
  }

  start(): void {
    this.output = '';
    const child = spawn(process.execPath, [childPath, this.#path], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    }
    this.#child = child;
    this.#exited = once(child, 'close');
  }

  /** The signal, and the process has ended when it resolves, to its exit status. */
  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<number | null> {
    this.#child?.kill(signal);
    await this.#exited;
    return this.#child?.exitCode ?? null;
  }
}

/** A numbered reading `{ n, id }` of a sensor, as it lies in the log. */
export interface NumberedRecord {
  readonly n: number;
  readonly id: string;
  readonly key: string | null;
}

/** All records of a topic, partition by partition, in the order of the log. */
export async function numberedIn(logUrl: string, topic: string): Promise<NumberedRecord[]> {
  const log = await openLog(logUrl);
  const found: NumberedRecord[] = [];
  try {
    const { partitions } = (await log.topic(topic)) ?? { partitions: 0 };
    for (let partition = 0; partition < partitions; partition += 1) {
      const { earliest, end } = await log.offsets(topic, partition);
      for (let offset = earliest; offset < end;) {
        const result = await log.fetch({ topic, partition, offset, maxBytes: 1 << 20, maxWaitMs: 0 });
        for (const record of result.batches.flatMap((batch) => decodeRecords(batch, topic))) {
          const value = JSON.parse(String(record.value)) as { n: number; id: string };
          found.push({ n: value.n, id: value.id, key: record.key?.toString() ?? null });
        }
        offset = result.nextOffset;
      }
    }
  } finally {
    await log.close();
  }
  return found;
}

/**
 * What is wrong, in words: an acknowledged number that is not there exactly once, any number that is there twice, and sensors (`id`) whose
 * numbers do not ascend. Empty when all is well.
 */
export function flawsOf(records: readonly NumberedRecord[], acknowledged: Iterable<number>): string[] {
  const times = new Map<number, number>();
  const lastOf = new Map<string, number>();
  const flaws: string[] = [];
  for (const { n, id } of records) {
    times.set(n, (times.get(n) ?? 0) + 1);
    const last = lastOf.get(id) ?? -1;
    if (n <= last) flaws.push(`${id}: ${n} behind ${last}`);
    lastOf.set(id, n);
  }
  for (const [n, count] of times) if (count > 1) flaws.push(`${n} is there ${count} times`);
  for (const n of acknowledged) if (!times.has(n)) flaws.push(`${n} was acknowledged and is missing`);
  return flaws.length > 20 ? [...flaws.slice(0, 20), `... ${flaws.length} in all`] : flaws;
}
