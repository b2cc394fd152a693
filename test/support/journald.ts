/** A real journald of one's own, in a mount namespace (it takes root), whose journal lies in a temporary folder. No entry of the machine gets there. */
import { spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { missing } from './services.ts';
import { tempDir } from './temp.ts';

const program = fileURLToPath(new URL('./journald.py', import.meta.url));
const SETUP =
  'mount -t tmpfs tmpfs /run && mkdir -p /run/log/journal && mount --bind "$1" /run/log/journal && exec python3 "$2"';

export type EntryFields = readonly (readonly [name: string, value: string | Buffer])[];

/** As `missing`, and it takes root with the right to mount, which a container's root may lack. */
export function cannotRunJournald(): boolean {
  if (missing('journalctl')) return true;
  if (process.env['CI'] === 'true') return false;
  const isRoot = process.platform === 'linux' && process.getuid?.() === 0;
  const canMount = isRoot && spawnSync('unshare', ['--mount', 'true']).status === 0;
  if (!canMount) console.warn('skipped: a journald of its own needs root that may mount');
  return !canMount;
}

export class Journald {
  readonly directory: string;
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #answers: AsyncIterator<string>;

  private constructor() {
    this.directory = join(tempDir('journal'), 'journal');
    mkdirSync(this.directory);
    const args = ['--mount', '--propagation', 'private', 'sh', '-c', SETUP, 'sh', this.directory, program];
    this.#child = spawn('unshare', args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#answers = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  /** It ends with the test. */
  static async start(): Promise<Journald> {
    const journald = new Journald();
    const ended = once(journald.#child, 'close');
    onTestFinished(async () => {
      journald.#child.stdin.end();
      await ended;
    });
    await journald.#answered();
    return journald;
  }

  /** The entries are in the journal when it resolves; from a process of `unit` (a service). */
  async send(entries: readonly EntryFields[], unit: string | null = null): Promise<void> {
    const encoded = entries.map((fields) =>
      fields.map(([name, value]) => [name, Buffer.from(value as string).toString('base64')]),
    );
    await this.#do({ do: 'send', unit, entries: encoded });
  }

  /** As the program `test`. */
  async say(...messages: readonly string[]): Promise<void> {
    await this.send(messages.map((message) => [['MESSAGE', message], ['SYSLOG_IDENTIFIER', 'test']])); // prettier-ignore
  }

  /** What was written so far is in a file that is written no more. */
  async rotate(): Promise<void> {
    await this.#do({ do: 'rotate' });
  }

  /** Ends journald and starts it as if the machine had been started anew. */
  async boot(id: string): Promise<void> {
    await this.#do({ do: 'boot', id });
  }

  /** Removes what was rotated, as journald does when the journal is too large. */
  vacuum(): void {
    const { status, stderr } = spawnSync('journalctl', [`--directory=${this.directory}`, '--vacuum-files=1']);
    if (status !== 0) throw new Error(String(stderr));
  }

  async #do(command: Readonly<Record<string, unknown>>): Promise<void> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    await this.#answered();
  }

  async #answered(): Promise<void> {
    const { done } = await this.#answers.next();
    if (done === true) throw new Error('journald ended: what it said stands above');
  }
}
