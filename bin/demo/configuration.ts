/**
 * The two configuration files of a demo's directory, usable with every other command.
 *
 * Invariants: a file that a person changed is used as it is and never written over: the first line carries a hash of the rest, and only a
 * file whose hash holds is written anew. A pipeline.yaml without that line is somebody else's, and its directory is refused untouched.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentConfig } from '../../agent/config.ts';
import { loadAgentConfig } from '../../agent/main.ts';
import { loadPipelineConfig, type PipelineConfig } from '../../lib/config/pipeline.ts';
import { PenstockError, systemCode } from '../../lib/errors.ts';
import { urlOfPath } from '../../lib/urls.ts';

export interface DemoPaths {
  readonly dir: string;
  readonly pipeline: string;
  readonly agent: string;
  /** NDJSON and CSV files dropped here become readings. */
  readonly inbox: string;
  readonly mountpoint: string;
  readonly logs: string;
  readonly metaUrl: string;
  readonly storeUrl: string;
}

export interface DemoConfiguration {
  readonly pipeline: PipelineConfig;
  readonly agent: AgentConfig;
  /** Where the agent reports to: the page is served there. */
  readonly controlPort: number;
  /** What a person should know about the files: which of them are used as they were found. */
  readonly notes: readonly string[];
}

/** Free ones of this machine, for an agent.yaml that is written now. */
export interface DemoPorts {
  /** Where `penstock agent top` and `tap` ask. */
  readonly agent: number;
  readonly control: number;
}

const MARK = '# Written by penstock demo';

export function demoPaths(dir: string): DemoPaths {
  return {
    dir,
    pipeline: join(dir, 'pipeline.yaml'),
    agent: join(dir, 'agent.yaml'),
    inbox: join(dir, 'inbox'),
    mountpoint: join(dir, 'mnt'),
    logs: join(dir, 'logs'),
    metaUrl: urlOfPath('sqlite', join(dir, 'meta.db')),
    storeUrl: urlOfPath('dir', join(dir, 'objects')),
  };
}

const PIPELINE = `log: file:./log
store: dir:./objects
meta: sqlite:./meta.db
datasets:
  - { name: plant.vibration, topic: vibration, sort: [sensor, ts] }
  - { name: host.metrics, topic: host, sort: [sensor] }
  - { name: plant.inbox, topic: inbox }
lander: { commitEvery: 3s, fileBytes: 32MB }
compactor: { lag: 0s, keepReplaced: 1h }
topics: { partitions: 3, retention: 7d }
`;

/** `rate`: simulated readings per second beside the machine's own; 0 for none. */
function agentYaml(rate: number, ports: DemoPorts): string {
  const simulator = rate > 0 ? `  - { type: simulator, rate: ${rate}, sensors: 200, to: vibration }\n` : '';
  return `agent: { id: demo, dataDir: ./agent, listen: 127.0.0.1:${ports.agent} }
control: { url: http://127.0.0.1:${ports.control} }
log: file:./log
spool: { maxBytes: 2GB, whenFull: reject, fsync: group }
sources:
  - { type: host, interval: 1s, to: host }
  - { type: file, path: ./inbox/*.ndjson, sensor: path, to: inbox }
  - { type: file, path: ./inbox/*.csv, sensor: path, to: inbox }
${simulator}`;
}

/** Throws `usage` when the directory has a pipeline.yaml that no demo wrote. Changes nothing. */
export function refuseForeignDirectory(paths: DemoPaths): void {
  const text = read(paths.pipeline);
  if (text === undefined || text.startsWith(MARK)) return;
  throw new PenstockError(
    'usage',
    `${paths.pipeline} was not written by penstock demo: give another directory with --dir, or run this pipeline with penstock land|compact -c ${paths.pipeline}`,
  );
}

/** Writes what is missing or unchanged, and reads both files. Throws `config`, also when they lead out of the directory. */
export async function makeConfiguration(paths: DemoPaths, rate: number, free: DemoPorts): Promise<DemoConfiguration> {
  for (const folder of [paths.inbox, paths.mountpoint, paths.logs]) mkdirSync(folder, { recursive: true });
  const notes: string[] = [];
  if (!writeUnlessChanged(paths.pipeline, PIPELINE)) notes.push(`${paths.pipeline} was changed: used as it is`);
  if (!writeUnlessChanged(paths.agent, agentYaml(rate, free))) {
    notes.push(`${paths.agent} was changed: used as it is, and --rate does not apply`);
  }
  const { config: pipeline } = await loadPipelineConfig(paths.pipeline);
  const { config: agent } = await loadAgentConfig(paths.agent);
  expectEmbedded(paths.pipeline, 'log', pipeline.log, 'file:./log');
  expectEmbedded(paths.pipeline, 'store', pipeline.store, 'dir:./objects');
  expectEmbedded(paths.pipeline, 'meta', pipeline.meta, 'sqlite:./meta.db');
  expectEmbedded(paths.agent, 'log', agent.log, 'file:./log');
  const controlPort = agent.control === undefined ? free.control : Number(new URL(agent.control.url).port);
  return { pipeline, agent, controlPort, notes };
}

function expectEmbedded(path: string, key: string, found: string, expected: string): void {
  if (found === expected) return;
  throw new PenstockError(
    'config',
    `${path}: ${key} is ${found}, but the demo keeps everything in its directory: set it to ${expected}, or run the programs one by one (penstock agent run, land, compact)`,
  );
}

/** False when the file is there and differs from what was written last. */
function writeUnlessChanged(path: string, body: string): boolean {
  const found = read(path);
  if (found !== undefined) {
    const end = found.indexOf('\n') + 1;
    if (found.slice(0, end) !== headOf(found.slice(end))) return false;
  }
  writeFileSync(path, headOf(body) + body);
  return true;
}

function headOf(body: string): string {
  const hash = createHash('sha256').update(body).digest('hex').slice(0, 12);
  return `${MARK} (${hash}), which leaves this file alone once you change it. Every command takes it with -c.\n`;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
