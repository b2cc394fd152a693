/**
 * The access log (`-o accesslog=FILE`): one line per request, `time operation inode result microseconds`, where result is 0 or the
 * negated errno. Lines are gathered and written once per FLUSH_MS or FLUSH_BYTES, so that the file system never waits for its log.
 *
 * Invariants
 * - At most LOG_BYTES_MAX on disk twice: the file and its predecessor `FILE.1`.
 * - A log that cannot be written, or not be opened again, is reported and dropped until it is reopened; the mount goes on.
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
  /** Undefined: it could not be opened again, or is closed. */
  #fd: number | undefined;
  #bytes = 0;
  #pending = '';

  /** Throws Node's error when it cannot be opened: then the mount does not begin. */
  constructor(path: string, warn: (message: string) => void, bytesMax = LOG_BYTES_MAX) {
    this.#path = path;
    this.#warn = warn;
    this.#bytesMax = bytesMax;
    this.#open();
    this.#timer = setInterval(() => this.flush(), FLUSH_MS);
    this.#timer.unref();
  }

  record(operation: string, ino: bigint, errno: number, elapsedUs: number): void {
    this.#pending += `${new Date().toISOString()} ${operation} ${ino} ${errno === 0 ? 0 : -errno} ${Math.round(elapsedUs)}\n`;
    if (this.#pending.length >= FLUSH_BYTES) this.flush();
  }

  #open(): void {
    const fd = openSync(this.#path, 'a', 0o600);
    this.#fd = fd;
    this.#bytes = fstatSync(fd).size;
  }

  flush(): void {
    const lines = this.#pending;
    this.#pending = '';
    const fd = this.#fd;
    if (lines === '' || fd === undefined) return;
    this.#orStop(() => {
      this.#bytes += writeSync(fd, lines);
      if (this.#bytes < this.#bytesMax) return;
      renameSync(this.#path, `${this.#path}.1`);
      this.#closeFile();
      this.#open();
    });
  }

  /** After the file was moved away by logrotate (SIGHUP). */
  reopen(): void {
    this.#closeFile();
    this.#orStop(() => this.#open());
  }

  /** Until it is reopened. */
  #orStop(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#closeFile();
      this.#warn(`access log ${this.#path} stopped: ${describeError(error)}`);
    }
  }

  #closeFile(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  close(): void {
    clearInterval(this.#timer);
    this.flush();
    this.#closeFile();
  }
}
