/**
 * A run of journalctl. What it says beside entries is kept: it tells why there are none, or not all.
 *
 * Limits: LAST_WORDS_MAX of what it says; LOOK_MS_MAX for a look.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { describeError, PenstockError, systemCode } from '../../../lib/errors.ts';
import { ExportParser, type Entry } from './export-format.ts';

/** The last of them: in them is why it ended. */
const LAST_WORDS_MAX = 1000;
/** Journals of gigabytes on a slow disk are opened in seconds. */
const LOOK_MS_MAX = 60_000;
const LOOK_FIELD_BYTES_MAX = 4096;
const IN_ORDER = 'journalctl ended (status 0)';
const MISSING =
  'there is no journalctl on the PATH: install it (in Debian it is in the package systemd; for a container, deploy/journald.Dockerfile makes the image)';
const NOT_PERMITTED =
  'the agent may not read the whole journal: run it as root, or in the group systemd-journal (SupplementaryGroups=systemd-journal in its unit)';

/** Over as soon as there is an entry. */
export const NO_JOURNAL =
  'journalctl finds no journal: there is none in /var/log/journal and /run/log/journal, or in the `directory` of the source; in a container, they are to be mounted';

export class Journalctl {
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  #words = '';

  /** Throws `unavailable` where the kernel takes no such arguments. */
  constructor(args: readonly string[]) {
    this.#child = startJournalctl(args);
    this.#ended = new Promise((done) => {
      this.#child.on('error', (error) => {
        done(systemCode(error) === 'ENOENT' ? MISSING : notStarted(error));
      });
      this.#child.on('close', (status, signal) => {
        const words = this.problem === null ? '' : `: ${this.problem}`;
        done(`journalctl ended (${signal ?? `status ${status}`})${words}`);
      });
    });
    // Without descriptors left for it, the child has no streams.
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#words = (this.#words + chunk.toString()).slice(-LAST_WORDS_MAX);
    });
  }

  /** What it gives, as it comes, until it has ended or is told to end. Throws `corrupt` where that is no export format. */
  async *entries(parser: ExportParser): AsyncGenerator<readonly Entry[], void> {
    if (!this.#child.stdout) return;
    try {
      for await (const chunk of this.#child.stdout) yield [...parser.push(chunk as Buffer)];
    } catch (error) {
      // It was told to end.
      if (systemCode(error) !== 'ERR_STREAM_PREMATURE_CLOSE') throw error;
    }
  }

  /** Nobody reads what it gives. */
  drop(): void {
    this.#child.stdout?.resume();
  }

  /** What it gave and nobody has read is dropped. */
  end(): void {
    this.#child.kill('SIGKILL');
    this.#child.stdout?.destroy();
  }

  /** Resolves to the reason, when it has ended. */
  ended(): Promise<string> {
    return this.#ended;
  }

  /** All that it has said so far; null where that is nothing. */
  get problem(): string | null {
    const words = this.#words.trim().replaceAll(/\s*\n\s*/g, ' ');
    if (/insufficient permissions|not seeing messages/.test(words)) return `${NOT_PERMITTED}: ${words}`;
    if (/No journal files were found/.test(words)) return NO_JOURNAL;
    return words === '' ? null : words;
  }
}

function startJournalctl(args: readonly string[]): ChildProcess {
  // Nothing of the agent's own: what systemd told it by its environment (where to notify, where its log goes) is not for this process.
  const env = { PATH: process.env['PATH'], LC_ALL: 'C', SYSTEMD_LOG_LEVEL: 'notice', SYSTEMD_LOG_TARGET: 'console' };
  try {
    return spawn('journalctl', args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    // Most failures are an event; what comes of the arguments (E2BIG) is thrown.
    throw new PenstockError('unavailable', notStarted(error), { cause: error });
  }
}

function notStarted(error: unknown): string {
  return `journalctl cannot be started: ${describeError(error)}`;
}

/** The first entry that these arguments give, and that is wanted; null where there is none. Throws `unavailable` when journalctl cannot tell. It is ended at that entry. */
export async function lookAt(
  args: readonly string[],
  signal: AbortSignal,
  isWanted: (entry: Entry) => boolean = () => true,
): Promise<Entry | null> {
  return withJournalctl(args, signal, async (run) => {
    for await (const entries of run.entries(new ExportParser(LOOK_FIELD_BYTES_MAX))) {
      const found = entries.find(isWanted);
      if (found !== undefined) return found;
    }
    await toItsEnd(run);
    return null;
  });
}

/** What journalctl has to say about the journal; null where that is nothing. Throws `unavailable` when it cannot read it at all. */
export async function problemWith(args: readonly string[], signal: AbortSignal): Promise<string | null> {
  return withJournalctl(args, signal, async (run) => {
    run.drop();
    await toItsEnd(run);
    return run.problem;
  });
}

async function toItsEnd(run: Journalctl): Promise<void> {
  const reason = await run.ended();
  if (!reason.startsWith(IN_ORDER)) throw new PenstockError('unavailable', reason);
}

async function withJournalctl<T>(
  args: readonly string[],
  signal: AbortSignal,
  read: (run: Journalctl) => Promise<T>,
): Promise<T> {
  const run = new Journalctl(args);
  const end = (): void => run.end();
  const timer = setTimeout(end, LOOK_MS_MAX);
  signal.addEventListener('abort', end, { once: true });
  if (signal.aborted) end();
  try {
    return await read(run);
  } finally {
    run.end();
    clearTimeout(timer);
    signal.removeEventListener('abort', end);
  }
}
