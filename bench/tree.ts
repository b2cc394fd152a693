/**
 * A source tree on the file system, on the local disk, JuiceFS and here in alternation: unpacked, walked, read and removed by tar, find, grep, git and rm.
 * Prints the median seconds of each and how many times as fast as JuiceFS it is here.
 * usage: JUICEFS=PATH node bench/tree.ts [--rounds 3] [--redis-latency MS] [--of DIR]...   (root and /dev/fuse; a latency needs DELAYPROXY)
 * DIR: what the tree is made of; default: packages of node_modules, some 3,600 files and 46 MB.
 */
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { median } from './median.ts';
import {
  behindProxy,
  formatJuicefs,
  formatPenstock,
  mountJuicefs,
  mountPenstock,
  required,
  startRedis,
  stopServers,
  umountJuicefs,
  umountPenstock,
} from './servers.ts';

const PACKAGES = ['@aws-sdk', '@smithy', 'typescript', 'lodash'];
const STEP_TIMEOUT_MS = 600_000;
const run = promisify(execFile);
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    'redis-latency': { type: 'string', default: '0' },
    of: { type: 'string', multiple: true },
  },
});

/** What is done in a folder where `tree.tar` is at $1; each step finds what the one before has left. */
const STEPS = {
  'tar x': 'tar xf "$1"',
  'find -size': 'find tree -type f -size +1M',
  'git add': 'cd tree && git init -q . && git add . && git -c user.name=b -c user.email=b@b commit -qm all',
  'git status': 'cd tree && git status --short',
  'grep -r': 'grep -r --exclude-dir=.git no-such-word-anywhere tree || true',
  'cp -a': 'cp -a tree copy',
  'rm -rf': 'rm -rf tree copy',
} as const;

interface Contender {
  readonly label: string;
  readonly path: string;
  readonly seconds: Map<string, number[]>;
}

async function measure({ path, seconds }: Contender, archive: string): Promise<void> {
  for (const [step, script] of Object.entries(STEPS)) {
    const startMs = performance.now();
    await run('bash', ['-euc', script, 'bash', archive], { cwd: path, timeout: STEP_TIMEOUT_MS });
    const list = seconds.get(step) ?? [];
    seconds.set(step, [...list, (performance.now() - startMs) / 1000]);
  }
}

/** Returns how many files are in it. */
async function pack(dir: string, archive: string): Promise<number> {
  const modules = join(import.meta.dirname, '../node_modules');
  const folders = values.of ?? PACKAGES.map((name) => join(modules, name)).filter((path) => existsSync(path));
  const tree = join(dir, 'tree');
  for (const folder of folders) cpSync(folder, join(tree, basename(folder)), { recursive: true });
  await run('tar', ['cf', archive, '-C', dir, 'tree']);
  const { stdout } = await run('find', [tree, '-type', 'f']);
  rmSync(tree, { recursive: true });
  return stdout.split('\n').length - 1;
}

async function bench(): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-tree-'));
  const juicefs = required('JUICEFS');
  const unmounts: (() => Promise<void>)[] = [];
  try {
    const archive = join(dir, 'tree.tar');
    const files = await pack(dir, archive);
    const { port } = await behindProxy(await startRedis(dir), Number(values['redis-latency']));
    const contender = (label: string, folder: string): Contender => {
      mkdirSync(join(dir, folder));
      return { label, path: join(dir, folder), seconds: new Map() };
    };
    const [disk, theirs, ours] = [
      contender('disk', 'disk'),
      contender('JuiceFS', 'juicefs'),
      contender('Penstock', 'penstock'),
    ];
    const [peerUrl, ownUrl] = [`redis://127.0.0.1:${port}/1`, `redis://127.0.0.1:${port}/2`];
    await formatJuicefs(juicefs, peerUrl, join(dir, 'juicefs-objects'), undefined);
    await mountJuicefs(juicefs, peerUrl, { path: theirs.path, cacheDir: join(dir, 'juicefs-cache') });
    unmounts.push(() => umountJuicefs(juicefs, theirs.path));
    await formatPenstock(ownUrl, join(dir, 'penstock-objects'), undefined);
    await mountPenstock(ownUrl, { path: ours.path, cacheDir: join(dir, 'penstock-cache') });
    unmounts.push(() => umountPenstock(ours.path));
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const each of [disk, theirs, ours]) await measure(each, archive);
    }
    console.log(
      `${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), Linux ${release()}, Node ${process.version}, load ${loadavg()[0]?.toFixed(1)}; ` +
        `${files} files, Redis latency ${values['redis-latency']} ms, median of ${values.rounds} rounds, seconds`,
    );
    console.log(
      `${'step'.padEnd(12)}${'disk'.padStart(9)}${'JuiceFS'.padStart(9)}${'Penstock'.padStart(9)}${'ratio'.padStart(7)}`,
    );
    for (const step of Object.keys(STEPS)) {
      const [onDisk, there, here] = [disk, theirs, ours].map(({ seconds }) => median(seconds.get(step)));
      if (onDisk === undefined || there === undefined || here === undefined) continue;
      const cells = [onDisk, there, here].map((seconds) => seconds.toFixed(2).padStart(9));
      console.log(`${step.padEnd(12)}${cells.join('')}${(there / here).toFixed(2).padStart(7)}`);
    }
  } finally {
    for (const unmount of unmounts) await unmount().catch((error: unknown) => console.error(error));
    stopServers();
    rmSync(dir, { recursive: true, force: true });
  }
}

await bench();
