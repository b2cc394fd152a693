/** A real agent (`penstock agent run`) that a real control plane steers. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import type { AgentStatus } from '../../agent/status.ts';
import { valuesIn } from '../agent/log-values.ts';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { tempDir } from '../support/temp.ts';
import { type Control, startControl } from './control.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePort } from '../support/ports.ts';

const penstock = fileURLToPath(new URL('../../bin/penstock.ts', import.meta.url));
const WAIT = { timeout: HANG_MS, interval: 50 };

class SteeredAgent {
  readonly dir = tempDir();
  readonly #port: number;
  #child: ChildProcess | undefined;

  constructor(port: number, control: string, source: string) {
    this.#port = port;
    const keys = [
      `agent: { id: edge-1, dataDir: ./agent, listen: "127.0.0.1:${port}" }`,
      control,
      'log: file:./log',
      source,
    ];
    writeFileSync(join(this.dir, 'agent.yaml'), keys.join('\n'));
    onTestFinished(() => void this.#child?.kill('SIGKILL'));
  }

  start(): void {
    const args = [penstock, 'agent', 'run', '-c', join(this.dir, 'agent.yaml')];
    this.#child = spawn(process.execPath, args, { stdio: 'ignore' });
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  /** undefined while it does not answer. */
  status(): Promise<AgentStatus | undefined> {
    return fetch(`http://127.0.0.1:${this.#port}/status`).then(
      async (response) => (await response.json()) as AgentStatus,
      () => undefined,
    );
  }

  /** The names of the sources that run. */
  async sources(): Promise<readonly string[]> {
    return (await this.status())?.sources.map(({ name }) => name) ?? [];
  }

  /** The version that is kept for a start without a control plane. */
  keptVersion(): string | undefined {
    const path = join(this.dir, 'agent', 'desired.json');
    if (!existsSync(path)) return undefined;
    return (JSON.parse(readFileSync(path, 'utf8')) as { good: { version: string } | null }).good?.version;
  }
}

async function configure(control: Control, config: unknown): Promise<string> {
  const path = '/v1/agents/edge-1/config';
  const headers: Record<string, string> = (await control.get(path))['version'] === 'none' ? {} : { 'if-match': '*' };
  const answer = await control.request('PUT', path, { body: { config }, headers });
  expect(answer.status, answer.text).toBe(204);
  return String((await control.get(path))['version']);
}

const reported = async (control: Control): Promise<unknown> => {
  const { items } = (await control.get('/v1/agents')) as { items: readonly { status: Record<string, unknown> }[] };
  return items[0]?.status['config'];
};

test('an agent takes over what the control plane wants, refuses what does not work, and starts with the last good one without it', async () => {
  const pipeline = await openTestPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const agent = new SteeredAgent(
    await freePort(),
    `control: { url: "${control.url}" }`,
    'sources: [{ type: simulator, rate: 50, sensors: 5, to: machine }]',
  );
  agent.start();
  await expect.poll(() => agent.sources(), WAIT).toEqual(['simulator:0:machine']);
  await expect.poll(() => reported(control), WAIT).toMatchObject({ version: null, refused: null });

  const good = await configure(control, { sources: [{ type: 'simulator', rate: 100, sensors: 5, to: 'machine' }] });
  await expect.poll(() => reported(control), WAIT).toMatchObject({ version: good, refused: null });
  await expect.poll(() => agent.keptVersion(), WAIT).toBe(good);

  // Valid by the schema; the agent itself cannot run with it.
  const source = { type: 'simulator', rate: 100, sensors: 5, to: 'machine' };
  const bad = await configure(control, { log: 'kafka://127.0.0.1:9?sasl=plain', sources: [source] });
  await expect
    .poll(() => reported(control), WAIT)
    .toMatchObject({
      version: good,
      refused: { version: bad, reason: expect.stringContaining('needs user= and passwordFile=') as string },
    });
  expect(await agent.sources()).toEqual(['simulator:0:machine']);

  await agent.end('SIGKILL');
  await control.stop();
  agent.start();
  await expect.poll(async () => (await agent.status())?.config, WAIT).toMatchObject({ version: good });
  await expect.poll(async () => (await agent.status())?.controlProblem, WAIT).toContain(control.url);
  await agent.end('SIGTERM');
  // The simulator counts over the life of the data directory: each reading once, over every change of the configuration.
  const numbers = (await valuesIn(agent.dir, 'machine')).map(({ n = NaN }) => n).sort((a, b) => a - b);
  expect(numbers.length).toBeGreaterThan(0);
  expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, index) => index));
});

test('what is no longer wanted is forgotten: the agent runs with its agent.yaml again', async () => {
  const pipeline = await openTestPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const version = await configure(control, { sources: [{ type: 'simulator', rate: 10, to: 'wanted' }] });
  const agent = new SteeredAgent(
    await freePort(),
    `control: { url: "${control.url}" }`,
    'sources: [{ type: simulator, rate: 10, to: own }]',
  );
  agent.start();
  await expect.poll(async () => (await agent.status())?.config?.version, WAIT).toBe(version);
  expect(await agent.sources()).toEqual(['simulator:0:wanted']);
  await control.request('DELETE', '/v1/agents/edge-1/config', { headers: { 'if-match': version } });
  await expect.poll(() => agent.sources(), WAIT).toEqual(['simulator:0:own']);
  expect(agent.keptVersion()).toBeUndefined();
});
