/** Looks now and then, in a child process, whether the volume of this mount needs a backup or a gc (tools/maintenance.ts). */
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { extname, join } from 'node:path';

/** Mounts of one node begin together; they need not look together. */
const LOOK_MS_MIN = 5 * 60_000;
const LOOK_MS_MAX = 10 * 60_000;

export interface MaintenanceTask {
  readonly metaUrl: string;
  readonly volume: string;
  readonly directory: string;
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

export interface Maintenance {
  stop(): void;
}

export function startMaintenance(
  task: MaintenanceTask,
  log: (message: string) => void,
  random: () => number = Math.random,
): Maintenance {
  let child: ChildProcess | undefined;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const schedule = (): void => {
    if (stopped) return;
    timer = setTimeout(look, LOOK_MS_MIN + random() * (LOOK_MS_MAX - LOOK_MS_MIN)).unref();
  };
  const look = (): void => {
    child = runMaintenance(task, log, () => {
      child = undefined;
      schedule();
    });
  };
  schedule();
  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
      child?.kill('SIGKILL');
    },
  };
}

/** One round; `ended` is called once, however it went. */
export function runMaintenance(task: MaintenanceTask, log: (message: string) => void, ended: () => void): ChildProcess {
  const module = join(import.meta.dirname, `maintenance-child${extname(import.meta.filename)}`);
  const child = fork(module, [], { stdio: 'ignore', execArgv: [], serialization: 'json' });
  let over = false;
  const end = (): void => {
    if (!over) ended();
    over = true;
  };
  child.on('message', (message) => {
    if (typeof message === 'object' && 'message' in message) log(String(message.message));
  });
  child.once('error', (error) => {
    log(`maintenance could not be started: ${error.message}`);
    end();
  });
  child.once('exit', end);
  child.send({ ...task });
  return child;
}
