/**
 * Life on nodes: an edge node whose agent loses its link, two nodes that mount one volume and the lake through the CSI node service with a
 * reader of the lake on each, a lander and a compactor that gets a SIGTERM in the middle. Nodes are network namespaces (network.ts).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { datasetStats, openLake } from '../../compactor/main.ts';
import { formatVolume, mountStats } from '../../fs-gateway/main.ts';
import { loadConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { csiSecrets, volumeOf } from '../csi/csi-volume.ts';
import { startCsiDriver } from '../support/csi.ts';
import type { CsiDriver } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { guardMount, killIfAlive, shell, start, until } from '../support/mount-guard.ts';
import { descendants } from '../support/processes.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { makeNetwork } from './network.ts';

const READINGS = 20_000;
const CUT_MS = 6_000;
const WRITER = { mount: {}, accessMode: { mode: 'MULTI_NODE_MULTI_WRITER' } };
const READER = { mount: {}, accessMode: { mode: 'MULTI_NODE_READER_ONLY' } };
const penstock = join(import.meta.dirname, '..', '..', 'bin', 'penstock');

/** As a training job: lists the files, reads each to its end, again and again. A file that is listed and cannot be read ends it. */
const TRAIN = `
  rounds=0; files=0
  while [ ! -e "$2" ]; do
    list=$(find "$1" -name '*.parquet' -type f)
    for file in $list; do cat "$file" > /dev/null; files=$((files + 1)); done
    rounds=$((rounds + 1))
  done
  echo "$rounds $files"`;
/** One node counts up, the other sees each number that is closed, in order. */
const COUNT =
  'for i in $(seq 1 100); do echo $i > "$1/count.new"; mv "$1/count.new" "$1/count"; done; echo done > "$1/end"';
const FOLLOW = `
  last=0
  while [ ! -e "$1/end" ]; do
    [ -e "$1/count" ] || continue
    now=$(cat "$1/count")
    [ "$now" -ge "$last" ]
    last=$now
  done
  cat "$1/count"`;

let services: Services;
let broker: KafkaBroker;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw', 'kafka'))('on nodes', () => {
  beforeAll(async () => {
    [services, broker] = await Promise.all([startServices(), KafkaBroker.start()]);
  });
  afterAll(async () => {
    await Promise.all([services.stop(), broker.close()]);
  });

  it('every reading arrives once and every reader reads on, through cuts, kills and a SIGTERM', async () => {
    const base = tempDir(`mount-${process.pid}`);
    const secrets = csiSecrets(services, 0);
    const ports = [broker.plain, secrets['meta'], secrets['store']].map((text) =>
      Number(/127\.0\.0\.1(?::|%3A)(\d+)/.exec(text ?? '')?.[1]),
    );
    const [edge, first, second] = await makeNetwork(['edge-1', 'node-a', 'node-b'], ports);
    if (edge === undefined || first === undefined || second === undefined) throw new Error('no nodes');
    await formatVolume({ metaUrl: secrets['meta'] ?? '', storeUrl: secrets['store'] ?? '' });
    const pipeline = join(base, 'pipeline.yaml');
    writeFileSync(
      pipeline,
      `log: kafka://${broker.plain}\nmeta: ${secrets['meta'] ?? ''}\nstore: ${secrets['store'] ?? ''}\ndatasets: [{ name: plant.machine, topic: machine, eventTime: ts }]\nlander: { commitEvery: 1s }\n`,
    );
    writeFileSync(
      join(base, 'agent.yaml'),
      `agent: { id: edge-1, dataDir: ./agent }\nlog: kafka://${broker.plain}\nsources: [{ type: simulator, rate: 1000, count: ${READINGS}, to: machine }]\n`,
    );

    const nodes = await Promise.all([
      makeCsiNode(base, 'node-a', first.prefix, secrets),
      makeCsiNode(base, 'node-b', second.prefix, secrets),
    ]);
    const [a, b] = nodes;
    const made = await a.driver.call('Controller', 'CreateVolume', {
      name: 'shared',
      secrets,
      volumeCapabilities: [WRITER],
      capacityRange: { requiredBytes: 1e9 },
    });
    for (const node of nodes) {
      await node.use('shared', volumeOf(made).volumeId, WRITER);
      await node.use('lake', 'penstock:lake', READER);
    }

    // One volume on two nodes.
    const follower = start('bash', ['-euc', FOLLOW, 'bash', b.target('shared')]);
    await shell(COUNT, a.target('shared'), 120_000);
    const followed = await follower.finished;
    expect(followed, followed.stderr).toMatchObject({ status: 0, stdout: '100\n' });

    const agent = launch(base, 'agent', edge.prefix, ['agent', 'run', '-c', join(base, 'agent.yaml')]);
    const lander = launch(base, 'lander', [], ['land', '-c', pipeline]);
    // A reader of the lake on each, while the link of the edge is cut and the files change under them.
    await until(
      'the first files are in the lake',
      async () => (await shell('find "$1" -name "*.parquet" | wc -l', a.target('lake'))) !== '0\n',
    );
    const stop = join(base, 'stop');
    const readers = nodes.map((node) => start('bash', ['-euc', TRAIN, 'bash', node.target('lake'), stop], 240_000));
    const landed = async (): Promise<number> => (await stats(pipeline)).landed;
    edge.cut();
    await new Promise((resume) => setTimeout(resume, CUT_MS)); // The outage itself, not a wait for something.
    const atCut = await landed();
    expect(atCut).toBeLessThan(READINGS);
    edge.restore();
    const compact = launch(base, 'compactor', [], ['compact', '-c', pipeline, '--ignore-lag']);
    // In the middle: its DuckDB has been started. (The shell that starts it has children of its own.)
    const works = (): boolean => descendants(compact.pid ?? 0).some(({ command }) => command.includes('sql-worker'));
    await until('the compactor works', () => compact.exitCode !== null || works());
    compact.kill('SIGTERM');
    expect(await exit(compact)).not.toBeNull();
    await nodes[1].driver.kill();
    process.kill(Number((await mountStats(a.staging('lake')))['workerPid']), 'SIGKILL');
    await until('every reading has landed', async () => (await landed()) >= READINGS);
    const again = launch(base, 'compactor', [], ['compact', '-c', pipeline, '--ignore-lag', '--json']);
    expect(await exit(again), readFileSync(join(base, 'compactor.log'), 'utf8')).toBe(0);
    writeFileSync(stop, '');
    const read = await Promise.all(readers.map(({ finished }) => finished));
    for (const { status, stderr } of read) expect(status, stderr).toBe(0);
    for (const child of [agent, lander]) child.kill('SIGTERM');
    expect(await exit(agent)).toBe(0);
    expect(await exit(lander)).toBe(0);

    const { landed: all, liveRows, duplicates, quarantined, lost } = await stats(pipeline);
    expect(all).toBe(READINGS);
    expect(liveRows + duplicates + quarantined).toBe(READINGS);
    expect(lost).toBe(0);
    for (const { stdout } of read) expect(Number(stdout.split(' ')[1])).toBeGreaterThan(0);
    console.log({
      readings: all,
      landedBeforeTheLinkWasBack: atCut,
      liveRows,
      duplicates,
      readers: read.map(({ stdout }) => stdout.trim()),
    });
  });
});

function launch(base: string, name: string, prefix: readonly string[], args: readonly string[]): ChildProcess {
  const log = openSync(join(base, `${name}.log`), 'a');
  const command = [...prefix, penstock, ...args];
  const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', log, log] });
  closeSync(log);
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return child;
}

function exit(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(child.exitCode);
  return new Promise((done) => child.once('exit', done));
}

async function stats(pipeline: string) {
  const { config, baseDir } = await loadConfig(pipeline, pipelineSchema);
  const ports = await openLake(config, baseDir, 'test');
  return datasetStats(ports.lake, 'plant.machine').finally(() => ports.close());
}

interface CsiNode {
  readonly driver: CsiDriver;
  staging(volume: string): string;
  target(volume: string): string;
  /** Stages and publishes. */
  use(volume: string, volumeId: string, volumeCapability: object): Promise<void>;
}

async function makeCsiNode(base: string, name: string, prefix: readonly string[], secrets: object): Promise<CsiNode> {
  const driver = await startCsiDriver({ base, name, prefix });
  onTestFinished(() => driver.kill());
  const staging = (volume: string): string => join(base, name, volume, 'staging');
  const target = (volume: string): string => join(base, name, volume, 'pod', 'mount');
  return {
    driver,
    staging,
    target,
    async use(volume, volumeId, volumeCapability) {
      for (const point of [staging(volume), target(volume)]) guardMount(point);
      mkdirSync(join(base, name, volume, 'pod'), { recursive: true });
      onTestFinished(async () => {
        if (!existsSync(staging(volume))) return;
        const pid = (await mountStats(staging(volume)).catch(() => undefined))?.['supervisorPid'];
        if (typeof pid === 'number') killIfAlive(-pid);
      });
      const request = { volumeId, stagingTargetPath: staging(volume), volumeCapability, secrets };
      await driver.call('Node', 'NodeStageVolume', request);
      await driver.call('Node', 'NodePublishVolume', { ...request, targetPath: target(volume) });
    },
  };
}
