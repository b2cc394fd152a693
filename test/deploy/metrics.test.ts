/** Every metric that an alert or a dashboard asks for is one that a running program offers. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { start, until } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { CHART } from './helm.ts';
import { startServer } from './programs.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePort } from '../support/ports.ts';

const penstock = join(import.meta.dirname, '..', '..', 'bin', 'penstock');

/** promtool's own rules of names, types and help texts. */
async function lint(text: string): Promise<string> {
  const { child, finished } = start(requireService('promtool'), ['check', 'metrics'], HANG_MS, 'pipe');
  child.stdin?.end(text);
  const { stdout, stderr } = await finished;
  return stdout + stderr;
}

async function offered(url: string): Promise<string[]> {
  let response: Response | undefined;
  await until(`${url} answers`, async () => {
    response = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(HANG_MS) }).catch(() => undefined);
    return response?.status === 200;
  });
  if (response === undefined) throw new Error('no answer');
  const text = await response.text();
  if (!missing('promtool')) expect(await lint(text), url).toBe('');
  const types = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)];
  return types.flatMap(([, name = '', type]) =>
    type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  );
}

function asked(): Map<string, string> {
  const files = [
    join(CHART, 'files', 'rules.yaml'),
    join(CHART, 'templates', 'lander.yaml'),
    ...readdirSync(join(CHART, 'dashboards')).map((name) => join(CHART, 'dashboards', name)),
  ];
  const names = new Map<string, string>();
  for (const file of files) {
    for (const [name] of readFileSync(file, 'utf8').matchAll(/\bpenstock_[a-z_]+/g)) names.set(name, file);
  }
  return names;
}

describe('metrics', () => {
  it('that alerts and dashboards ask for are those of the programs', async () => {
    const base = tempDir('metrics');
    const ports = `log: file:./log\nmeta: sqlite:./meta.db\nstore: dir:./objects\n`;
    writeFileSync(join(base, 'pipeline.yaml'), `${ports}datasets: [{ name: a.b, topic: b }]\n`);
    const agentPort = await freePort();
    writeFileSync(
      join(base, 'agent.yaml'),
      `agent: { id: a, dataDir: ./agent, listen: 127.0.0.1:${agentPort} }\nlog: file:./log\nsources: [{ type: simulator, rate: 1, to: b }]\n`,
    );
    const [control, csi] = await Promise.all([
      startServer(penstock, ['serve', '-c', join(base, 'pipeline.yaml'), '--port', '0'], /serving (http\S+)/),
      startServer(
        penstock,
        [
          'csi',
          '--endpoint',
          `unix:${join(base, 's')}`,
          '--node-id',
          'n',
          '--cache-dir',
          join(base, 'cache'),
          '--listen',
          '127.0.0.1:0',
        ],
        /metrics +(http\S+)/,
      ),
      startServer(penstock, ['agent', 'run', '-c', join(base, 'agent.yaml')], /()/),
    ]);
    const urls = [control[1] ?? '', csi[1] ?? '', `http://127.0.0.1:${agentPort}`];
    const known = new Set((await Promise.all(urls.map(offered))).flat());
    const names = asked();
    expect(names.size).toBeGreaterThan(25);
    for (const [name, file] of names) expect(known.has(name), `${name} in ${file}`).toBe(true);
  });
});
