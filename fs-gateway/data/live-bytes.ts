/**
 * The backing file of a live file, as this process has it open. Somebody may remove it from the cache directory, or unmount the disk, while the kernel goes on writing to it: from
 * then on it is found by what is open here (whole-files.ts), and the supervisor holds it for the worker behind this one.
 *
 * Invariants: a removed file stays one, whatever is at its path later. This process keeps it open for reading until the live file ends.
 * Failure: killed before the removal was found (`look`, each second and at each flush), the bytes are lost with the last handle of the kernel.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import type { BigIntStats, Stats } from 'node:fs';
import type { WholeFiles } from './whole-files.ts';
import type { WholeRecord } from './whole-record.ts';

export class LiveBytes {
  readonly fd: number;
  readonly #ino: number;
  readonly #whole: WholeFiles;
  #writeFd: number | undefined;

  /** Throws Node's error when it cannot be opened. */
  constructor(ino: number, whole: WholeFiles) {
    this.#ino = ino;
    this.#whole = whole;
    this.fd = openSync(whole.path(ino), 'r');
  }

  get stat(): Stats {
    return fstatSync(this.fd);
  }

  get exactStat(): BigIntStats {
    return fstatSync(this.fd, { bigint: true });
  }

  /** Whether somebody has removed it, or its record, since the last look. `base`: what is to be known of it then. */
  look(base: WholeRecord): boolean {
    return this.#whole.lookFor(this.#ino, this.fd, base);
  }

  /** Of the same file, whatever is at its path. */
  writable(): number {
    this.#writeFd ??= openSync(`/proc/self/fd/${this.fd}`, constants.O_RDWR);
    return this.#writeFd;
  }

  closeWriter(): void {
    if (this.#writeFd !== undefined) closeSync(this.#writeFd);
    this.#writeFd = undefined;
  }

  close(): void {
    this.closeWriter();
    closeSync(this.fd);
  }
}
