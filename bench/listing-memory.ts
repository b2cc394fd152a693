/**
 * The memory of a mount's worker while a directory of many files is listed: names, the same again (the kernel has them), and with the
 * attributes of each file. The files are made by the engine, without a mount; prints what Redis needs for one of them, too.
 * usage: node bench/listing-memory.ts [--files 1000000] (root and /dev/fuse; a Redis of its own)
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { mountStats } from '../fs-gateway/main.ts';
import { openMeta } from '../lib/registry.ts';
import { DT_DIR, DT_REG, encodeDentry } from '../lib/volume/dentry.ts';
import { takeIds } from '../lib/volume/ids.ts';
import { encodeInode, newInode, S_IFDIR, S_IFREG } from '../lib/volume/inode.ts';
import { ROOT_INO, VolumeKeys } from '../lib/volume/keys.ts';
import { formatPenstock, mountPenstock, startRedis, stopServers, umountPenstock } from './servers.ts';

const FILES_PER_COMMIT = 400;
const run = promisify(execFile);
const { values } = parseArgs({ options: { files: { type: 'string', default: '1000000' } } });
const files = Number(values.files);

/** An empty file is an inode and a name. */
async function makeFiles(url: string): Promise<void> {
  const engine = await openMeta(url, { kind: 'bench' });
  try {
    const keys = new VolumeKeys('lake');
    const directory = await takeIds(engine, keys, 'ino', files + 1);
    const nowNs = BigInt(Date.now()) * 1_000_000n;
    const file = encodeInode(newInode(S_IFREG | 0o644, 0, 0, nowNs));
    await engine.commit({
      write: [
        {
          key: keys.inode(directory),
          value: encodeInode(newInode(S_IFDIR | 0o755, 0, 0, nowNs, { parent: ROOT_INO })),
        },
        { key: keys.entry(ROOT_INO, 'many'), value: encodeDentry(directory, DT_DIR) },
      ],
    });
    for (let made = 0; made < files; made += FILES_PER_COMMIT) {
      const numbers = Array.from({ length: Math.min(FILES_PER_COMMIT, files - made) }, (_, n) => made + n + 1);
      await engine.commit({
        write: numbers.flatMap((n) => [
          { key: keys.inode(directory + n), value: file },
          { key: keys.entry(directory, `file${n}`), value: encodeDentry(directory + n, DT_REG) },
        ]),
      });
    }
  } finally {
    await engine.close();
  }
}

async function redisBytes(port: number): Promise<number> {
  const { stdout } = await run('redis-cli', ['-p', String(port), 'info', 'memory']);
  return Number(/^used_memory:(\d+)/m.exec(stdout)?.[1]);
}

/** MB of the worker: now, and at most until now. */
async function memoryOf(path: string): Promise<string> {
  const { workerPid } = await mountStats(path);
  const status = readFileSync(`/proc/${Number(workerPid)}/status`, 'utf8');
  const megabytes = (key: string): string =>
    ((Number(new RegExp(`${key}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024) / 1e6).toFixed(0);
  return `${megabytes('VmRSS')} MB, at most ${megabytes('VmHWM')} MB`;
}

async function bench(): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-listing-'));
  const path = join(dir, 'mnt');
  try {
    const port = await startRedis(dir);
    const url = `redis://127.0.0.1:${port}/1`;
    await formatPenstock(url, join(dir, 'objects'), undefined);
    const before = await redisBytes(port);
    await makeFiles(url);
    console.log(`${files} files, ${(((await redisBytes(port)) - before) / files).toFixed(0)} bytes of Redis for each`);
    await mountPenstock(url, { path, cacheDir: join(dir, 'cache') });
    try {
      console.log(`mounted: ${await memoryOf(path)}`);
      for (const [what, command] of [
        ['names', 'ls -f'],
        ['names again', 'ls -f'],
        ['with attributes', 'ls -fl'],
      ] as const) {
        const startMs = performance.now();
        const { stdout } = await run('sh', ['-c', `${command} '${join(path, 'many')}' | wc -l`]);
        const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
        const load = (loadavg()[0] ?? 0).toFixed(1);
        console.log(`${what}: ${stdout.trim()} lines in ${seconds} s, ${await memoryOf(path)}, load ${load}`);
      }
    } finally {
      await umountPenstock(path);
    }
  } finally {
    stopServers();
    rmSync(dir, { recursive: true, force: true });
  }
}

await bench();
