/** The two configuration files of a demo's directory, written at each start and usable with every other command afterwards. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

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

export const DEMO_DATASETS = ['plant.vibration', 'host.metrics', 'plant.inbox'] as const;

export function demoPaths(dir: string): DemoPaths {
  return {
    dir,
    pipeline: join(dir, 'pipeline.yaml'),
    agent: join(dir, 'agent.yaml'),
    inbox: join(dir, 'inbox'),
    mountpoint: join(dir, 'mnt'),
    logs: join(dir, 'logs'),
    metaUrl: `sqlite:${encodeURI(join(dir, 'meta.db'))}`,
    storeUrl: `dir:${encodeURI(join(dir, 'objects'))}`,
  };
}

const PIPELINE = `# Written by penstock demo; every command takes it: penstock land|compact -c pipeline.yaml
log: file:./log
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
function agentYaml(rate: number, controlPort: number): string {
  const simulator = rate > 0 ? `  - { type: simulator, rate: ${rate}, sensors: 200, to: vibration }\n` : '';
  return `# Written by penstock demo
agent: { id: demo, dataDir: ./agent }
control: { url: http://127.0.0.1:${controlPort} }
log: file:./log
spool: { maxBytes: 2GB, whenFull: reject, fsync: group }
sources:
  - { type: host, interval: 1s, to: host }
  - { type: file, path: ./inbox/*.ndjson, sensor: path, to: inbox }
  - { type: file, path: ./inbox/*.csv, sensor: path, to: inbox }
${simulator}`;
}

export function writeConfiguration(paths: DemoPaths, rate: number, controlPort: number): void {
  for (const folder of [paths.inbox, paths.mountpoint, paths.logs]) mkdirSync(folder, { recursive: true });
  writeFileSync(paths.pipeline, PIPELINE);
  writeFileSync(paths.agent, agentYaml(rate, controlPort));
}
