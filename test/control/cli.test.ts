import { randomBytes } from 'node:crypto';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { completionsOf } from '../../bin/commands/ctl-completion.ts';
import { DATASET } from '../compactor/pipeline.ts';
import { landedPipeline } from './control.ts';
import { HANG_MS } from '../support/hang.ts';

const BIN = join(import.meta.dirname, '../../bin/penstock');
const TOKEN = 'first-administrator-token-0123456789';
const run = promisify(execFile);

test('penstock serve tells its address, ctl asks it by its own document, SIGTERM ends it', async () => {
  const { pipeline, rows } = await landedPipeline();
  const file = join(pipeline.dir, 'pipeline.yaml');
  writeFileSync(file, pipeline.yaml);
  const server = spawn(BIN, ['serve', '-c', file, '--port', '0', '--json'], {
    env: { ...process.env, PENSTOCK_TOKEN: TOKEN, PENSTOCK_SEAL_KEYS: randomBytes(32).toString('base64') },
    stdio: ['ignore', 'pipe', 'ignore', 'ipc'],
  });
  onTestFinished(() => void server.kill('SIGKILL'));
  const { stdout } = server;
  if (stdout === null) throw new Error('no pipe');
  const [[message], [line]] = (await Promise.all([
    once(server, 'message', { signal: AbortSignal.timeout(HANG_MS) }),
    once(stdout, 'data', { signal: AbortSignal.timeout(HANG_MS) }),
  ])) as [[{ kind: string; url: string }], [Buffer]];
  expect(message.kind).toBe('serving');
  expect(JSON.parse(line.toString())).toEqual({ url: message.url, loopbackOnly: false });

  const ctl = async (...args: string[]): Promise<string> =>
    (
      await run(BIN, ['ctl', '--url', message.url, ...args], {
        env: { ...process.env, PENSTOCK_TOKEN: TOKEN },
        timeout: HANG_MS,
      })
    ).stdout;
  expect(await ctl()).toMatch(/^datasets +get +DATASET +One dataset/m);
  const dataset = JSON.parse(await ctl('datasets', 'get', DATASET, '--json')) as { liveRows: number };
  expect(dataset.liveRows).toBe(rows);
  expect(await ctl('sql', 'query', '--sql', `SELECT count(*) AS n FROM ${DATASET}`)).toBe(`n\n${rows}\n`);
  // DuckDB points at what is wrong, below the line that has it.
  await expect(ctl('sql', 'query', '--sql', `SELECT nothing FROM ${DATASET}`)).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/\nLINE 1: SELECT nothing FROM .*\n +\^/) as string,
  });
  expect(await ctl('runs', 'list', '--limit', '1')).toContain('compact');
  // A field that is an object comes from a file; a name of digits stays a name; who edits names what he saw.
  const settings = join(pipeline.dir, 'line.yaml');
  writeFileSync(settings, 'sources:\n  - { type: simulator, rate: 5, to: machine, sensors: 2 }\n');
  await ctl('agents', 'configure', '7', '--config', `@${settings}`);
  const wanted = JSON.parse(await ctl('agents', 'config', '7', '--json')) as { version: string; config: object };
  expect(wanted.config).toEqual({ sources: [{ type: 'simulator', rate: 5, to: 'machine', sensors: 2 }] });
  const again = ['agents', 'configure', '7', '--config', `@${settings}`, '--if-match', wanted.version] as const;
  // An answer without content.
  expect(await ctl('agents', 'heartbeat', '7', '--status', '{}', '--json')).toBe('{}\n');
  await ctl(...again);
  await expect(ctl('tokens', 'create', '--data', '[1]')).rejects.toMatchObject({ code: 2 });
  expect(JSON.parse(await ctl('tokens', 'create', '--name', '7', '--role', 'agent', '--json'))).toMatchObject({
    name: '7',
  });
  const keys = join(pipeline.dir, 'keys.json');
  writeFileSync(keys, '{ "password": "hunter2" }');
  const place = ['--region', 'hall 3', '--tags', '{"team":"vision"}'];
  await ctl(
    'connections',
    'create',
    '--name',
    'cache',
    '--address',
    'redis://127.0.0.1:1/0',
    '--credentials',
    `@${keys}`,
    ...place,
  );
  expect(await ctl('connections', 'list')).toMatch(/^cache +redis +redis:\/\/127\.0\.0\.1:1\/0 +hall 3/m);
  expect(await ctl('connections', 'test', 'cache')).toMatch(/ECONNREFUSED/);
  await expect(ctl('datasets', 'paint')).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringContaining('datasets list') as string,
  });
  await expect(
    run(BIN, ['ctl', '--url', message.url, 'datasets', 'list'], { env: { ...process.env, PENSTOCK_TOKEN: '' } }),
  ).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('PENSTOCK_TOKEN') as string });
  // For people: moments, lists and tags are text; what is wrong is said with what to type.
  expect(await ctl('connections', 'list')).toMatch(/ team=vision +password +[0-9a-f]{8} +\d{4}-\d\d-\d\dT[\d:.]+Z /);
  const moved = ['connections', 'update', 'cache', '--address', 'redis://127.0.0.1:2/0'];
  await expect(ctl(...moved)).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringContaining('--if-match') as string,
  });
  await expect(ctl(...moved, '--if-match', 'old')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringContaining('look again') as string,
  });
  for (const url of ['nonsense', message.url.replace('://', '://user:hunter2@')]) {
    const failed = run(BIN, ['ctl', '--url', url, 'datasets', 'list'], { timeout: HANG_MS });
    await expect(failed).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^penstock: --url(?!.*hunter2)/) as string,
    });
  }
  // Of a list what the document says is worth a column, of an object its lists as tables; who mistypes is shown what there is.
  await ctl('agents', 'heartbeat', '7', '--status', '{ "readings": 52, "delivered": 50, "spool": { "bytes": 4096 } }');
  const [heading, agent] = (await ctl('agents', 'list')).split('\n').map((text) => text.split(/ {2,}/));
  expect([heading?.[0], heading?.slice(-6)]).toEqual([
    'id',
    ['readings', 'delivered', 'quarantined', 'spoolBytes', 'problem', 'wanted'],
  ]);
  expect(agent).toEqual(['7', 'false', expect.stringMatching(/Z$/), '52', '50', '4096', wanted.version]);
  expect(await ctl('overview', 'get')).toMatch(/^agents +total=1, late=0\n\nPORTS\nname .*\nengine .*\n/m);
  await expect(ctl('agent', 'list')).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/^penstock: no 'agent list': expected one of health, .*, agents, .*\n$/) as string,
  });
  // Of a resource alone, what its verbs take.
  const tokens = await ctl('tokens');
  expect(tokens).toMatch(/^resource +verb +arguments +options +summary\n/);
  expect(tokens).toMatch(/^tokens +create .*--role\b/m);
  expect(tokens).toMatch(/^tokens +create .*--name\b/m);
  // A shell asks for what may follow.
  expect((await ctl('completion', '.')).split('\n')).toContain('datasets');
  expect((await ctl('completion', 'datasets', '.')).split('\n')).toContain('get');
  expect((await ctl('completion', 'runs', 'list', '--limit', '5', '')).split('\n')).toEqual(
    expect.arrayContaining(['--json', '--dataset', '--cursor']),
  );
  const script = `penstock() { '${BIN}' "$@"; }; ${await ctl('completion')} COMP_WORDS=(penstock ctl datasets g); COMP_CWORD=3; _penstock; echo "$COMPREPLY"`;
  const completed = await run('bash', ['-c', script], { env: { ...process.env, PENSTOCK_URL: message.url } });
  expect(completed.stdout).toBe('get\n');

  const ended = once(server, 'exit');
  server.kill('SIGTERM');
  expect(await ended).toEqual([0, null]);
});

test('completion offers no word that a shell would run', () => {
  const operations = [
    { operationId: '$(touch${IFS}taken).get', options: [] },
    { operationId: 'datasets.`id`', options: [] },
    { operationId: 'datasets.get', options: ['a$(id)', 'limit'] },
  ];
  expect(completionsOf(operations, [])).toEqual(['datasets']);
  expect(completionsOf(operations, ['datasets'])).toEqual(['get']);
  expect(completionsOf(operations, ['datasets', 'get'])).toEqual(['--json', '--limit']);
});
