/** Apache Iceberg's reference of a REST catalog, with its tables in SQLite, on a free port of the loopback interface. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { freePorts } from './kafka.ts';
import { requireService } from './services.ts';
import { tempDir } from './temp.ts';

/** A cold JVM on a machine that runs other tests. */
const START_DEADLINE_MS = 55_000;

/** Returns its URL. */
export async function startIcebergRest(): Promise<string> {
  const jars = requireService('iceberg-rest');
  const dir = tempDir('iceberg-rest');
  const [port = 0] = await freePorts(1);
  const log = join(dir, 'server.log');
  const output = openSync(log, 'w');
  const options = ['-Xmx300m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'];
  const child = spawn('java', [...options, '-cp', join(jars, '*'), 'org.apache.iceberg.rest.RESTCatalogServer'], {
    stdio: ['ignore', output, output],
    env: {
      ...process.env,
      CATALOG_REST_PORT: String(port),
      CATALOG_WAREHOUSE: join(dir, 'warehouse'),
      CATALOG_URI: `jdbc:sqlite:${join(dir, 'catalog.db')}`,
    },
  });
  closeSync(output);
  onTestFinished(async () => {
    if (child.exitCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  });
  const url = `http://127.0.0.1:${port}`;
  const deadline = performance.now() + START_DEADLINE_MS;
  while (!(await answers(url))) {
    if (child.exitCode !== null || performance.now() > deadline) {
      throw new Error(`the Iceberg REST catalog did not start:\n${readFileSync(log, 'utf8').slice(-4000)}`);
    }
    await delay(100);
  }
  return url;
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/v1/config`, { signal: AbortSignal.timeout(2000) })).ok;
  } catch {
    return false;
  }
}
