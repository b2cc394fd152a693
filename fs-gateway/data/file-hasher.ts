/**
 * Hashes local files block by block in a thread of its own, so that a file of a gigabyte (a quarter of a second) does not hold up the
 * requests of everybody else. The thread is started by the first file. Holes are not read: a new disk image of a terabyte has megabytes in it.
 */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { PenstockError } from '../../lib/errors.ts';
import { BlockHashes, type HashChunks } from './block-hashes.ts';

/** Bytes [start, end) of a file that read as zeros, because nothing was ever written there. */
export interface Hole {
  readonly start: number;
  readonly end: number;
}

export interface HashRequest {
  readonly id: number;
  readonly fd: number;
  readonly holes: readonly Hole[];
}

export interface FileHashes {
  /** The file's length when it was hashed. */
  readonly bytes: number;
  readonly hashes: BlockHashes;
  /** How long reading and hashing it took: not what it waited for, the start of the thread and other files. */
  readonly ms: number;
}

export type HashAnswer =
  | { readonly id: number; readonly bytes: number; readonly chunks: HashChunks; readonly ms: number }
  | { readonly id: number; readonly error: string };

export class FileHasher {
  #thread: Worker | undefined;
  #nextId = 1;
  readonly #waiting = new Map<number, PromiseWithResolvers<FileHashes>>();

  /** The descriptor must stay open until then. `holes`: what need not be read, in order. Throws `io` when the file cannot be read. */
  hash(fd: number, holes: readonly Hole[] = []): Promise<FileHashes> {
    const waiting = Promise.withResolvers<FileHashes>();
    const id = this.#nextId++;
    this.#waiting.set(id, waiting);
    this.#thread ??= this.#start();
    this.#thread.postMessage({ id, fd, holes } satisfies HashRequest);
    return waiting.promise;
  }

  #start(): Worker {
    const thread = new Worker(new URL(`./hash-thread${extname(import.meta.filename)}`, import.meta.url));
    thread.unref();
    thread.on('message', (answer: HashAnswer) => {
      const waiting = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if ('error' in answer) waiting?.reject(new PenstockError('io', `cannot hash a backing file: ${answer.error}`));
      else {
        const { bytes, chunks, ms } = answer;
        waiting?.resolve({ bytes, hashes: new BlockHashes(bytes, chunks), ms });
      }
    });
    thread.on('error', (error) => this.#fail(error));
    return thread;
  }

  #fail(cause: unknown): void {
    this.#thread = undefined;
    for (const waiting of this.#waiting.values()) waiting.reject(new PenstockError('io', 'hashing ended', { cause }));
    this.#waiting.clear();
  }

  async close(): Promise<void> {
    await this.#thread?.terminate();
    this.#fail(undefined);
  }
}
