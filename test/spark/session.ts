/**
 * Apache Spark with Iceberg's runtime in local mode, as one session that runs SQL on the tables of a `penstock catalog`, named `penstock.NAMESPACE.TABLE`.
 *
 * Limits: one statement at a time; one that takes longer than STATEMENT_MS ends the session.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { descendants, kill } from '../support/processes.ts';
import { requireService } from '../support/services.ts';

const STATEMENT_MS = 240_000;

export type SparkRow = Readonly<Record<string, unknown>>;

interface Answer {
  readonly rows?: readonly SparkRow[];
  readonly error?: string;
}

export class SparkSession {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  /** Its end. */
  #log = '';

  /** `dir`: for its files; the caller removes it behind `close`. */
  constructor(catalogUrl: string, dir: string, settings: Readonly<Record<string, string>> = {}) {
    const jars = [requireService('spark-iceberg'), requireService('iceberg-aws')];
    const all = {
      'spark.master': 'local[2]',
      'spark.jars': jars.flatMap((folder) => readdirSync(folder).map((name) => join(folder, name))).join(','),
      'spark.sql.extensions': 'org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions',
      'spark.sql.catalog.penstock': 'org.apache.iceberg.spark.SparkCatalog',
      'spark.sql.catalog.penstock.type': 'rest',
      'spark.sql.catalog.penstock.uri': catalogUrl,
      // Else it goes on with a table as it was up to half a minute ago.
      'spark.sql.catalog.penstock.cache-enabled': 'false',
      'spark.sql.session.timeZone': 'UTC',
      'spark.ui.enabled': 'false',
      'spark.driver.host': '127.0.0.1',
      'spark.driver.bindAddress': '127.0.0.1',
      'spark.local.dir': dir,
      ...settings,
    };
    this.#child = spawn('python3', [fileURLToPath(new URL('session.py', import.meta.url)), JSON.stringify(all)], {
      cwd: dir,
      env: { ...process.env, PYTHONPATH: requireService('spark-python'), TZ: 'UTC' },
    });
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#log = (this.#log + text).slice(-4000)));
    // A session that ended says so at its next statement.
    this.#child.stdin.on('error', () => undefined);
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Throws with Spark's message when it refuses. */
  async sql(text: string): Promise<readonly SparkRow[]> {
    this.#child.stdin.write(`${JSON.stringify({ sql: text })}\n`);
    const timer = setTimeout(() => this.#kill(), STATEMENT_MS);
    const line = await this.#lines.next();
    clearTimeout(timer);
    if (line.done === true) throw new Error(`Spark ended at ${text}\n${this.#log}`);
    const { rows, error } = JSON.parse(line.value) as Answer; // what session.py writes
    if (rows === undefined) throw new Error(error?.slice(0, 2000));
    return rows;
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#kill();
    await exited;
  }

  #kill(): void {
    for (const { pid } of [...descendants(this.pid), { pid: this.pid }]) kill(pid);
  }
}
