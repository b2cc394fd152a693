/** Apache Iceberg's reference of a REST catalog, with its tables in SQLite, on a free port of the loopback interface. */
import { join } from 'node:path';
import { requireService } from './services.ts';
import { tempDir } from './temp.ts';
import { startJavaServer } from './java-server.ts';
import { freePorts } from './ports.ts';

/** Returns its URL. */
export async function startIcebergRest(): Promise<string> {
  const jars = requireService('iceberg-rest');
  const dir = tempDir('iceberg-rest');
  const [port = 0] = await freePorts(1);
  const log = join(dir, 'server.log');
  const url = `http://127.0.0.1:${port}`;
  await startJavaServer({
    name: 'the Iceberg REST catalog',
    args: ['-Xmx300m', '-cp', join(jars, '*'), 'org.apache.iceberg.rest.RESTCatalogServer'],
    env: {
      CATALOG_REST_PORT: String(port),
      CATALOG_WAREHOUSE: join(dir, 'warehouse'),
      CATALOG_URI: `jdbc:sqlite:${join(dir, 'catalog.db')}`,
    },
    log,
    answers: () => answers(url),
  });
  return url;
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/v1/config`, { signal: AbortSignal.timeout(2000) })).ok;
  } catch {
    return false;
  }
}
