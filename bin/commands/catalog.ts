/** `penstock catalog`: the Iceberg REST catalog of a pipeline's tables, alone. */
import { readFile } from 'node:fs/promises';
import { InvalidArgumentError, type Command } from 'commander';
import { PenstockError } from '../../lib/errors.ts';
import { untilSignal } from '../output.ts';
import { loadPipeline } from './pipeline-options.ts';

interface CatalogOptions {
  readonly config: string;
  readonly port: number;
  readonly host: string;
  readonly tokenFile?: string;
}

/** Iceberg's own example catalogs listen there. */
const DEFAULT_PORT = 8181;

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535) throw new InvalidArgumentError('expected a port from 0 to 65535');
  return port;
}

async function readToken(path: string): Promise<string> {
  let token: string;
  try {
    token = (await readFile(path, 'utf8')).trim();
  } catch (error) {
    throw new PenstockError('config', `the token file ${path} cannot be read`, { cause: error });
  }
  if (token === '') throw new PenstockError('config', `the token file ${path} is empty`);
  return token;
}

export function addCatalogCommand(program: Command): void {
  program
    .command('catalog')
    .description('serve the tables to Spark, Trino, DuckDB and pyiceberg as an Iceberg REST catalog')
    .requiredOption('-c, --config <file>', 'pipeline.yaml')
    .option('--port <port>', '0 takes any free one', parsePort, DEFAULT_PORT)
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--token-file <file>', 'clients must send its content as bearer token')
    .action(async (options: CatalogOptions) => {
      const signal = untilSignal();
      const token = options.tokenFile === undefined ? null : await readToken(options.tokenFile);
      const { openLake } = await import('../../lib/lake/ports.ts');
      const { openRestServer } = await import('../../lib/table/rest/rest-server.ts');
      const { config, baseDir } = await loadPipeline(options);
      if (config.catalog !== null) {
        throw new PenstockError('config', `${options.config}: catalog: the tables are served by ${config.catalog.uri}`);
      }
      const ports = await openLake(config, baseDir, 'catalog');
      try {
        const server = await openRestServer(ports.lake, {
          host: options.host,
          port: options.port,
          token,
          onProblem: (message) => process.stderr.write(`penstock: ${message}\n`),
        });
        process.stdout.write(`${server.url}\n`);
        const { lost } = ports.lake.engine;
        await new Promise<void>((resolve) => {
          AbortSignal.any([signal, lost]).addEventListener('abort', () => resolve(), { once: true });
        });
        await server.close();
        // Whoever supervises this process starts it again, with a session of its own.
        if (lost.aborted) throw lost.reason;
      } finally {
        await ports.close();
      }
    });
}
