/**
 * The access log (`-o accesslog=FILE`): one line per request, `time operation inode result microseconds`, where result is 0 or the
 * negated errno. Lines are gathered and written once per FLUSH_MS or FLUSH_BYTES, so that the file system never waits for its log.
 *
 * Invariants
 * - At most LOG_BYTES_MAX on disk twice: the file and its predecessor `FILE.1`.
 * - A log that cannot be written is reported once and dropped; the mount goes on.
 * Failure: lines of the last FLUSH_MS are lost when the worker is killed.
 */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';
import { describeError } from '../../lib/errors.ts';

const FLUSH_MS = 500;
const FLUSH_BYTES = 65_536;
const LOG_BYTES_MAX = 64 * 2 ** 20;

export class AccessLog {
  readonly #path: string;
  readonly #bytesMax: number;
  readonly #warn: (message: string) => void;
  readonly #timer: NodeJS.Timeout;
  #fd: number;
  #bytes: number;
  #pending = '';
  #failed = false;

  constructor(path: string, warn: (message: string) => void, bytesMax = LOG_BYTES_MAX) {
    this.#path = path;
    this.#warn = warn;
    this.#bytesMax = bytesMax;
    this.#fd = openSync(path, 'a', 0o600);
    this.#bytes = fstatSync(this.#fd).size;
    this.#timer = setInterval(() => this.flush(), FLUSH_MS);
    this.#timer.unref();
  }

  record(operation: string, ino: bigint, errno: number, elapsedUs: number): void {
    this.#pending += `${new Date().toISOString()} ${operation} ${ino} ${errno === 0 ? 0 : -errno} ${Math.round(elapsedUs)}\n`;
    if (this.#pending.length >= FLUSH_BYTES) this.flush();
  }

  flush(): void {
    if (this.#pending === '' || this.#failed) {
      this.#pending = '';
      return;
    }
    try {
      this.#bytes += writeSync(this.#fd, this.#pending);
      this.#pending = '';
      if (this.#bytes >= this.#bytesMax) {
        renameSync(this.#path, `${this.#path}.1`);
        this.reopen();
      }
    } catch (error) {
      this.#failed = true;
      this.#warn(`access log ${this.#path} stopped: ${describeError(error)}`);
    }
  }

  /** After the file was moved away by logrotate (SIGHUP). */
  reopen(): void {
    closeSync(this.#fd);
    this.#fd = openSync(this.#path, 'a', 0o600);
    this.#bytes = fstatSync(this.#fd).size;
  }

  close(): void {
    clearInterval(this.#timer);
    this.flush();
    closeSync(this.#fd);
  }
}
