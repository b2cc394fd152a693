/**
 * What is shipped: the folder of the image, run with nothing but Node, and the npm package, installed in an empty project. No container engine is
 * needed: deploy/Dockerfile does no more than deploy/image.mjs, which runs here.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { KafkaBroker } from '../support/kafka.ts';
import { start } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { makeTempDir, tempDir } from '../support/temp.ts';
import { runEverySource } from './every-source.ts';
import { bareEnvironment, runBare } from './programs.ts';

const root = join(import.meta.dirname, '..', '..');
const FILES = [
  'CHANGELOG.md',
  'LICENSE',
  'README.md',
  'bin',
  'dist',
  'docs',
  'node_modules',
  'package-lock.json',
  'package.json',
];

let base: string;
let archive: string;

/** Also in a hook, where `run` of the mount guard has no test to clean up with. */
async function must(command: string, args: readonly string[], timeout: number): Promise<string> {
  const { stdout } = await promisify(execFile)(command, args, { timeout, maxBuffer: 64 * 2 ** 20 });
  return stdout;
}

function penstockOf(project: string): string {
  return join(project, 'node_modules', '.bin', 'penstock');
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}

describe('what is shipped', () => {
  beforeAll(async () => {
    base = makeTempDir('shipped');
    const pack = ['--prefix', root, 'pack', root, '--json', '--silent', '--pack-destination', base];
    const [made] = JSON.parse(await must('npm', pack, 480_000)) as { filename: string }[];
    archive = join(base, made?.filename ?? '');
  }, 500_000);
  afterAll(() => {
    rmSync(base, { recursive: true, force: true });
  });

  it('runs the whole pipeline from the folder of the image with only Node', async () => {
    const image = join(base, 'image');
    await must(process.execPath, [join(root, 'deploy', 'image.mjs'), image, archive], 240_000);
    expect(readdirSync(image).sort()).toEqual(FILES);
    const own = [...filesBelow(join(image, 'bin')), ...filesBelow(join(image, 'dist'))];
    expect(own.length).toBeGreaterThan(200);
    expect(own.filter((name) => /\.test\.|(?<!\.d)\.ts$/.test(name))).toEqual([]);
    expect(existsSync(join(image, 'dist', 'fs-gateway', 'csi', 'csi.proto'))).toBe(true);
    const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      devDependencies: Record<string, string>;
    };
    for (const name of Object.keys(devDependencies)) {
      if (name !== '@types/node') expect(existsSync(join(image, 'node_modules', name)), name).toBe(false);
    }
    expect(readdirSync(join(image, 'node_modules')).filter((name) => /^node-(linux|bin)-/.test(name))).toEqual([]);

    const environment = bareEnvironment(join(base, 'bare'));
    const penstock = join(image, 'bin', 'penstock');
    const work = tempDir(`mount-${process.pid}`);
    const { status, stdout, stderr } = await runBare(environment, penstock, [
      'demo',
      '--dir',
      work,
      '--for',
      '4s',
      '--json',
    ]);
    expect(status, stderr).toBe(0);
    const summary = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, number>;
    expect(summary['readings']).toBeGreaterThan(0);
    expect(summary['landedRows']).toBe(
      (summary['compactedRows'] ?? 0) + (summary['duplicates'] ?? 0) + (summary['quarantined'] ?? 0),
    );
    expect(summary['queryRows']).toBe(summary['compactedRows']);
    const csi = start('env', [
      '-i',
      `PATH=${environment['PATH'] ?? ''}`,
      penstock,
      ...['csi', '--endpoint', `unix:${work}/s`, '--node-id', 'n', '--cache-dir', `${work}/c`],
    ]);
    await new Promise((done) => csi.child.stdout?.once('data', done));
    csi.child.kill('SIGTERM');
    expect((await csi.finished).stdout).toContain('endpoint');
  }, 400_000);

  it('runs from an empty project that installed the npm package', async () => {
    const project = join(base, 'project');
    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), '{"private":true}');
    const install = [
      '--prefix',
      project,
      'install',
      archive,
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--prefer-offline',
    ];
    await must('npm', install, 240_000);
    const environment = bareEnvironment(join(base, 'project-env'));
    const penstock = (...args: string[]): ReturnType<typeof runBare> => runBare(environment, penstockOf(project), args);
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
    expect((await penstock('--version')).stdout.trim()).toBe(version);

    const work = tempDir('work');
    writeFileSync(join(work, 'in.ndjson'), Array.from({ length: 50 }, (_, n) => `{"id":"m","n":${n}}\n`).join(''));
    writeFileSync(
      join(work, 'agent.yaml'),
      `agent: { id: a, dataDir: ./agent }
log: file:./log
sources: [{ type: file, path: ./in.ndjson, sensor: id, to: machine }]
transforms:
  - { type: filter, on: machine, keep: 'value.n >= 0' }
  - { type: wasm, on: machine, module: ./smooth.wasm, config: { field: n, alpha: 0.2 } }
`,
    );
    copyFileSync(join(root, 'deploy', 'examples', 'wasm', 'smooth.wasm'), join(work, 'smooth.wasm'));
    writeFileSync(
      join(work, 'pipeline.yaml'),
      'log: file:./log\nmeta: sqlite:./meta.db\nstore: dir:./objects\ndatasets: [{ name: plant.machine, topic: machine }]\n',
    );
    const agent = start('env', [
      '-i',
      `PATH=${environment['PATH'] ?? ''}`,
      penstockOf(project),
      'agent',
      'run',
      '-c',
      join(work, 'agent.yaml'),
    ]);
    let landed = 0;
    for (let tries = 0; tries < 20 && landed < 50; tries++) {
      const land = await penstock('land', '-c', join(work, 'pipeline.yaml'), '--once', '--json');
      if (land.status === 0) landed += (JSON.parse(land.stdout) as { rows: number }).rows;
    }
    agent.child.kill('SIGTERM');
    expect(landed).toBe(50);
    expect((await agent.finished).status).toBe(0);
    const compact = await penstock('compact', '-c', join(work, 'pipeline.yaml'), '--ignore-lag', '--json');
    expect(compact.status, compact.stderr).toBe(0);
    expect(JSON.parse(compact.stdout)).toMatchObject({ in: 50, out: 50 });
  }, 400_000);

  it.skipIf(missing('kafka', 'mosquitto', 'node-opcua')).each(['kafkajs', 'platformatic'])(
    'has an agent that brings readings of every source into Kafka, over TLS, by %s; what is optional is found where it is installed',
    async (client) => {
      const broker = await KafkaBroker.start({ secure: true });
      onTestFinished(() => broker.close());
      const environment = bareEnvironment(join(base, client));
      expect(await runEverySource(environment, penstockOf(join(base, 'project')), broker, client)).toBe(0);
    },
    400_000,
  );

  it('has an agent that loads nothing from outside its bundle when it starts', () => {
    const main = join(base, 'project', 'node_modules', 'penstock', 'dist', 'agent-run', 'penstock.js');
    expect(readFileSync(main, 'utf8')).not.toMatch(/from"\.\.\//);
  });

  it('has an agent whose stack traces lead to the modules of dist, by source maps', async () => {
    const bundle = join(base, 'project', 'node_modules', 'penstock', 'dist', 'agent-run');
    const [chunk = ''] = readdirSync(bundle).filter((name) => /^guest-.*\.js$/.test(name));
    expect(readFileSync(join(bundle, chunk), 'utf8')).toContain(`//# sourceMappingURL=${chunk}.map`);
    const maps = readdirSync(bundle).filter((name) => name.endsWith('.map'));
    expect(maps.length).toBeGreaterThan(30);
    for (const name of maps) {
      const { sources } = JSON.parse(readFileSync(join(bundle, name), 'utf8')) as { sources: string[] };
      const own = sources.filter((source) => !source.includes('node_modules'));
      for (const source of own) expect(existsSync(join(bundle, source)), `${name}: ${source}`).toBe(true);
    }
  });

  it('has a Dockerfile that pins its base, runs as nobody, and does what image.mjs does', () => {
    const dockerfile = readFileSync(join(root, 'deploy', 'Dockerfile'), 'utf8');
    expect(dockerfile).toMatch(/ARG NODE_IMAGE=node:\d+\.\d+\.\d+-\w+-slim\n/);
    expect(dockerfile).not.toMatch(/latest|^ADD |curl|wget|apt-get/m);
    expect([...dockerfile.matchAll(/^USER (.*)$/gm)].map(([, user]) => user)).toEqual(['10001:10001']);
    expect(dockerfile).toContain('RUN node deploy/image.mjs /opt/penstock');
    expect(dockerfile).toContain('ENTRYPOINT ["/opt/penstock/bin/penstock"]');
  });

  it.skipIf(missing('hadolint'))('has Dockerfiles that their linter has nothing to say about', async () => {
    const files = ['Dockerfile', 'journald.Dockerfile'].map((name) => join(root, 'deploy', name));
    expect(await must(requireService('hadolint'), files, 60_000)).toBe('');
  });
});
