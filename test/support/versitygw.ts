/** A real S3 server for tests: versitygw over a temporary folder. */
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { requireService } from './services.ts';
import { makeTempDir } from './temp.ts';

export interface S3Server {
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Where the objects lie as files: BUCKET/KEY. */
  readonly folder: string;
  createBucket(name: string): void;
  stop(): Promise<void>;
}

const READY_DEADLINE_MS = 20_000;

/** Started for `beforeAll`, stopped by the caller. */
export async function startVersitygw(): Promise<S3Server> {
  const binary = requireService('versitygw');
  const folder = makeTempDir('s3');
  const [accessKeyId, secretAccessKey] = ['test-access', 'test-secret'];
  const port = await freePort();
  const child = spawn(binary, ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', folder], {
    stdio: 'ignore',
    env: { ...process.env, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
    rmSync(folder, { recursive: true, force: true });
  };
  const endpoint = `http://127.0.0.1:${port}`;
  const deadline = performance.now() + READY_DEADLINE_MS;
  while (!(await answers(endpoint))) {
    if (child.exitCode !== null || performance.now() > deadline) {
      await stop();
      throw new Error(`versitygw did not start (exit status ${child.exitCode ?? 'none'})`);
    }
    await sleep(20);
  }
  return {
    endpoint,
    accessKeyId,
    secretAccessKey,
    folder,
    createBucket: (name) => mkdirSync(`${folder}/${name}`),
    stop,
  };
}

/** A loopback port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

async function answers(endpoint: string): Promise<boolean> {
  try {
    await fetch(endpoint, { signal: AbortSignal.timeout(1000) });
    return true;
  } catch {
    return false;
  }
}
