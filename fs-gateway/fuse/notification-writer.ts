/**
 * The supervisor's side of notifications: owns the thread that writes them (notifier-thread.ts), for one worker after another.
 *
 * It is not the worker's, because a process does not end while one of its threads waits in the kernel. INVAL_ENTRY waits for a directory that
 * a request holds; the worker that is killed at that moment would be half dead for ever: its request waits for the next worker, and the
 * next worker for the end of this one.
 * Failure: the supervisor killed with the worker, at such a moment, leaves requests that nobody answers: `umount -f` ends them.
 */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Notification } from './notifier.ts';

export class NotificationWriter {
  readonly #fd: number;
  readonly #waiting: ((count: number) => void)[] = [];
  #thread: Worker | undefined;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Resolves with their count when the kernel has them; batches are written in their order. */
  write(batch: readonly Notification[]): Promise<number> {
    this.#thread ??= this.#start();
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#waiting.push(resolve);
    this.#thread.postMessage(batch);
    return promise;
  }

  #start(): Worker {
    const thread = new Worker(new URL(`./notifier-thread${extname(import.meta.filename)}`, import.meta.url), {
      workerData: { fd: this.#fd },
    });
    thread.unref();
    thread.on('message', (count: number) => this.#waiting.shift()?.(count));
    return thread;
  }

  /** To be called when the mount is gone: then nothing of it waits in the kernel. */
  close(): void {
    void this.#thread?.terminate();
  }
}
