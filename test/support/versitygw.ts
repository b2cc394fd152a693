/** A real S3 server for tests: versitygw over a temporary folder. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { requireService } from './services.ts';
import { makeTempDir } from './temp.ts';
import { HANG_MS } from './hang.ts';
import { freePort } from './ports.ts';

export interface S3Server {
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Where the objects lie as files: BUCKET/KEY. */
  readonly folder: string;
  createBucket(name: string): void;
  /** kill -9: every connection is cut and new ones are refused, until `restore`. */
  cut(): Promise<void>;
  /** Starts it again, on the same port and objects. */
  restore(): Promise<void>;
  /** Ends it and removes its folder. */
  stop(): Promise<void>;
}

/** Started for `beforeAll`, stopped by the caller. `flags`: of the program, before those of its folder. */
export async function startVersitygw(...flags: readonly string[]): Promise<S3Server> {
  const binary = requireService('versitygw');
  const folder = makeTempDir('s3');
  const [accessKeyId, secretAccessKey] = ['test-access', 'test-secret'];
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  let child: ChildProcess | undefined;
  const cut = async (): Promise<void> => {
    const running = child;
    child = undefined;
    if (running?.exitCode !== null || running.signalCode !== null) return;
    const exited = once(running, 'exit');
    running.kill('SIGKILL');
    await exited;
  };
  const restore = async (): Promise<void> => {
    const started = spawn(binary, ['--port', `127.0.0.1:${port}`, '--quiet', ...flags, 'posix', folder], {
      stdio: 'ignore',
      env: { ...process.env, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
    });
    child = started;
    const deadline = performance.now() + HANG_MS;
    while (!(await answers(endpoint))) {
      if (started.exitCode !== null || performance.now() > deadline) {
        throw new Error(`versitygw did not start (exit status ${started.exitCode ?? 'none'})`);
      }
      await sleep(20);
    }
  };
  const stop = async (): Promise<void> => {
    await cut();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await restore();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    endpoint,
    accessKeyId,
    secretAccessKey,
    folder,
    createBucket: (name) => mkdirSync(`${folder}/${name}`),
    cut,
    restore,
    stop,
  };
}

async function answers(endpoint: string): Promise<boolean> {
  try {
    await fetch(endpoint, { signal: AbortSignal.timeout(1000) });
    return true;
  } catch {
    return false;
  }
}
