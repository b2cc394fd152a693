/** Each container of the chart that is ours, started as its pod says: it answers its probes, does its work, and ends in order at SIGTERM. */
import { chmodSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openLog } from '../../lib/registry.ts';
import { HOUR_MS, recordOf, TestProducer } from '../compactor/pipeline.ts';
import { run, until } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { startContainer, type BoxedContainer, type Setting } from './container.ts';
import { configOf, containersOf, template, THREE_URLS, type Placed, type Probe } from './helm.ts';

/** What serves, with the line that says so where there is no port. */
const SERVING = [
  ...['penstock-agent/agent', 'penstock-lander/lander', 'penstock-control/control'],
  ...['penstock-csi-controller/csi', 'penstock-csi-node/csi', 'penstock-csi-mounts/mounts'],
];
const READINGS = 50;
/** What Kafka, Redis and S3 are to the pods, files in one folder are here. */
const PORTS = { log: 'file:/tmp/log', meta: 'sqlite:/tmp/meta.db', store: 'dir:/tmp/objects' };
const TOKEN = 'a-token-of-forty-characters-for-the-test';

/** Of an hour that is over, in a log that belongs to the user of the pods. */
async function produce(folder: string): Promise<void> {
  const log = await openLog(`file:${folder}`);
  await log.ensureTopic('host', { partitions: 1, retentionMs: 7 * 86_400_000 });
  const readings = Array.from({ length: READINGS }, (_, seq) =>
    recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq } }),
  );
  await new TestProducer(log).append(0, readings, 'host');
  await log.close();
  expect((await run('chown', ['-R', '10001:10001', folder])).status).toBe(0);
}

async function ready(one: Placed, running: BoxedContainer): Promise<void> {
  const { startupProbe, livenessProbe, readinessProbe } = one.container;
  const probes = [startupProbe, livenessProbe, readinessProbe].flatMap((probe) => probe ?? []);
  // Of the driver's own, not of the sidecar that asks it over its socket.
  for (const { httpGet } of probes.filter((probe) => probe.httpGet.port !== 'healthz')) {
    await passes(one, running, httpGet);
  }
  if (probes.length > 0) return;
  let told = '';
  running.child.stdout?.on('data', (text: string) => (told += text));
  await until(`${one.where} serves`, () => told.includes('endpoint'));
}

async function passes({ where }: Placed, running: BoxedContainer, { path, port }: Probe['httpGet']): Promise<void> {
  let answer: Awaited<ReturnType<BoxedContainer['get']>>;
  await until(`${where} answers ${path}`, async () => {
    const { exitCode } = running.child;
    if (exitCode !== null) throw new Error(`${where} ended with ${exitCode}: ${(await running.finished).stderr}`);
    answer = await running.get(path, port);
    return answer?.status === 200;
  }).catch(async (error: unknown) => {
    running.child.kill('SIGKILL');
    throw new Error(`${String(error)}: ${JSON.stringify(answer)} ${JSON.stringify(await running.finished)}`);
  });
}

describe.skipIf(cannotMount() || missing('helm'))('the containers of the chart', () => {
  it('run as their pods say, answer their probes, and end at SIGTERM', async () => {
    const base = tempDir('containers');
    chmodSync(base, 0o755);
    const rendered = await template([...THREE_URLS, '--set', 'pipeline.lander.commitEvery=1s']);
    const tmp = join(base, 'tmp');
    mkdirSync(tmp);
    chmodSync(tmp, 0o777);
    await produce(join(tmp, 'log'));
    const setting: Setting = {
      ...{ base, config: configOf(rendered), secrets: { ...PORTS, token: TOKEN } },
      shared: { tmp, scratch: tmp },
    };
    const own = containersOf(rendered).filter(({ container }) => container.image.startsWith('penstock/penstock'));
    const byName = new Map(own.map((one) => [one.where, one]));
    const named = (where: string): Placed => {
      const found = byName.get(where);
      if (found === undefined) throw new Error(`there is no ${where}`);
      return found;
    };
    // Nothing that the chart starts is left out.
    const jobs = ['penstock-format/format', 'penstock-compactor/compactor', 'penstock-gc/gc'];
    expect([...byName.keys()].sort()).toEqual([...SERVING, ...jobs].sort());

    const finish = async (where: string): Promise<string> => {
      const { status, stdout, stderr } = await (await startContainer(named(where), setting)).finished;
      expect(status, `${where}: ${stderr}`).toBe(0);
      return stdout;
    };
    await finish('penstock-format/format');
    const serving = await Promise.all(
      SERVING.map(async (where) => {
        const one = named(where);
        // Another user's, it makes files that the others may not write.
        const running = await startContainer(one, where.endsWith('/agent') ? { ...setting, shared: {} } : setting);
        await ready(one, running);
        return { where, running };
      }),
    );
    const control = serving.find(({ where }) => where.endsWith('/control'))?.running;
    const scraped = await control?.get('/metrics', 'control-metrics');
    expect(scraped).toMatchObject({
      status: 200,
      body: expect.stringContaining('penstock_port_up{port="log"} 1') as string,
    });
    expect((await control?.get('/metrics', 'http'))?.status).toBe(401);
    const lander = serving.find(({ where }) => where.endsWith('/lander'))?.running;
    await until('the readings have landed', async () => {
      const metrics = await lander?.get('/metrics', 'lander-metrics');
      return metrics?.body.includes(`penstock_lander_rows_total{dataset="edge.host"} ${READINGS}\n`) === true;
    });
    expect(await finish('penstock-compactor/compactor')).toMatch(new RegExp(`^in +${READINGS}$`, 'm'));
    await finish('penstock-gc/gc');
    for (const { where, running } of serving) {
      running.child.kill('SIGTERM');
      const { status, stderr } = await running.finished;
      expect(status, `${where}: ${stderr}`).toBe(0);
    }
    expect(readdirSync(tmp)).toEqual(expect.arrayContaining(['log', 'meta.db', 'objects']));
  });

  it('let the compactor use a folder of the host that is root’s', async () => {
    const base = tempDir('containers');
    chmodSync(base, 0o755);
    const rendered = await template([...THREE_URLS, '--set', 'compactor.scratch.hostPath=/mnt/nvme']);
    const one = containersOf(rendered).find(({ where }) => where === 'penstock-compactor/compactor');
    if (one === undefined) throw new Error('there is no compactor');
    const { status, stderr } = await (
      await startContainer(one, { base, config: configOf(rendered), secrets: PORTS })
    ).finished;
    expect(status, stderr).toBe(0);
  });
});
