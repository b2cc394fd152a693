/** pyiceberg on the tables of a REST catalog, in one Python process that executes what it is given. One call at a time. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { requireService } from '../support/services.ts';

const CALL_MS = 120_000;

export class PyicebergSession {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  /** Its end. */
  #log = '';

  constructor(catalogUrl: string, properties: Readonly<Record<string, string>>) {
    const session = fileURLToPath(new URL('pyiceberg_session.py', import.meta.url));
    const all = JSON.stringify({ type: 'rest', uri: catalogUrl, ...properties });
    this.#child = spawn('python3', [session, all], {
      env: { ...process.env, PYTHONPATH: requireService('pyiceberg'), TZ: 'UTC' },
    });
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#log = (this.#log + text).slice(-4000)));
    // A session that ended says so at its next call.
    this.#child.stdin.on('error', () => undefined);
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  /** What `code` has assigned to `answer`, as JSON has it; it finds `catalog` and `pyarrow`. Throws with what Python says. */
  async run(code: string): Promise<unknown> {
    this.#child.stdin.write(`${JSON.stringify({ code })}\n`);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), CALL_MS);
    const line = await this.#lines.next();
    clearTimeout(timer);
    if (line.done === true) throw new Error(`pyiceberg ended at ${code}\n${this.#log}`);
    const { answer, error } = JSON.parse(line.value) as { answer?: unknown; error?: string }; // what the session writes
    if (error !== undefined) throw new Error(error);
    return answer;
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}
