/**
 * What the FUSE side alone can do: a file system in memory behind the real supervisor, worker and kernel, driven by mdbench.
 * usage: MDBENCH=/path/to/mdbench node bench/fuse-loop.ts [FILES] [--async]   (root and /dev/fuse; FILES per thread, default 5000)
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { controlRequest } from '../fs-gateway/fuse/control.ts';
import { mountAndSupervise } from '../fs-gateway/fuse/lifecycle.ts';
import { runWorker, serveDevice } from '../fs-gateway/fuse/worker.ts';
import { memoryFs } from '../test/support/toy-memory.ts';

const PHASE_TIMEOUT_MS = 120_000;
/** As long as the real file system's, whose invalidations are pushed. */
const TTL_MS = 60_000;
const run = promisify(execFile);

async function bench(): Promise<void> {
  const mdbench = process.env['MDBENCH'];
  if (mdbench === undefined) throw new Error('MDBENCH=path to the mdbench program is needed');
  const files = Number(process.argv[2] ?? 5_000);
  const asynchronousCreate = process.argv.includes('--async');
  const mountpoint = mkdtempSync(join(tmpdir(), 'penstock-bench-fuse-'));
  console.log(
    `${cpus().length} CPUs, Linux ${release()}, Node ${process.version}, ${files} files, async=${asynchronousCreate}`,
  );
  const mount = await mountAndSupervise({
    mountpoint,
    source: 'memory',
    readOnly: false,
    posixAcl: false,
    passthrough: false,
    background: false,
    workerModule: import.meta.filename,
    workerOptions: { asynchronousCreate },
  });
  try {
    for (const threads of [1, 8]) {
      console.log(`-- ${threads} thread${threads > 1 ? 's' : ''}`);
      const perThread = String(Math.ceil(files / threads));
      const { stdout } = await run(mdbench, [mountpoint, String(threads), perThread], { timeout: PHASE_TIMEOUT_MS });
      process.stdout.write(stdout);
    }
    const stats = await controlRequest(mountpoint, { type: 'stats' });
    console.log(JSON.stringify(stats));
  } finally {
    await mount.stop();
    rmSync(mountpoint, { recursive: true });
  }
}

if (process.send === undefined) {
  await bench();
} else {
  await runWorker(async (assignment) => {
    const { asynchronousCreate } = assignment.options as { asynchronousCreate: boolean }; // from bench() above
    await serveDevice(assignment, memoryFs({ ttlMs: TTL_MS, asynchronousCreate }));
  });
}
