/**
 * Puts back what somebody removes of a staging area under its mount: a clean-up of old files, an `rm -rf` of the cache directory. What is open here is on the disk still, and
 * nobody else would ever find it.
 *
 * Invariants: the journal is put back as it is, frame by frame, so that what counts its frames stays true; and with it who the staging area is of (staging-life.ts, mount-identity.ts),
 * or the next worker would take what it finds for another mount's.
 * Failure: what is not open here is lost, and its files say so (segments.ts). A kill within LOOK_MS of the removal loses what was staged; a promise (`sync`) looks before it is given.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describeError } from '../../lib/errors.ts';
import type { Journal } from './journal.ts';
import type { Segments } from './segments.ts';

const LOOK_MS = 1000;

export interface WatchedStaging {
  readonly journal: Journal;
  readonly segments: Segments;
  /** Small files that stay as they are while the mount lives. */
  readonly files: readonly string[];
  readonly report: (message: string) => void;
}

export class StagingWatch {
  readonly #watched: WatchedStaging;
  readonly #contents: ReadonlyMap<string, Buffer>;
  readonly #timer: NodeJS.Timeout;
  #told = '';

  constructor(watched: WatchedStaging) {
    this.#watched = watched;
    this.#contents = new Map(watched.files.map((path) => [path, readFileSync(path)]));
    this.#timer = setInterval(() => {
      try {
        this.look();
      } catch (error) {
        this.#tell(`${watched.journal.path} was removed, and cannot be put back: ${describeError(error)}`);
      }
    }, LOOK_MS).unref();
  }

  /** Throws Node's errors when something is gone and cannot be put back. */
  look(): void {
    const { journal, segments, report } = this.#watched;
    if (!journal.isRemoved) return;
    mkdirSync(dirname(journal.path), { recursive: true, mode: 0o700 });
    segments.restore();
    for (const [path, content] of this.#contents) if (!existsSync(path)) writeFileSync(path, content, { mode: 0o600 });
    journal.restore();
    this.#told = '';
    report(
      `${journal.path} was removed under the mount: it is put back with what was open here. Leave the cache directory alone while it is in use, or unmount first`,
    );
  }

  /** What is the same each second is told once. */
  #tell(message: string): void {
    if (message !== this.#told) this.#watched.report(message);
    this.#told = message;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
