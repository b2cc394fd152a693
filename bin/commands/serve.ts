/** `penstock serve`: the REST API and the admin page. */
import { InvalidArgumentError, type Command } from 'commander';
import { reportToParent, toJson, untilSignal, version } from '../output.ts';

interface ServeCommandOptions {
  readonly config: string;
  readonly port?: number;
  readonly json?: true;
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535) throw new InvalidArgumentError('expected a port from 0 to 65535');
  return port;
}

export function addServeCommand(program: Command): void {
  program
    .command('serve')
    .description('the REST API, /metrics and the admin page, until SIGTERM or Ctrl-C')
    .requiredOption('-c, --config <file>', 'pipeline.yaml')
    .option('--port <n>', 'instead of serve.port; 0 takes any free one', parsePort)
    .option('--json', 'print the address as one JSON object')
    .action(async (options: ServeCommandOptions) => {
      const signal = untilSignal();
      const { loadConfig } = await import('../../lib/config/load.ts');
      const { pipelineSchema } = await import('../../lib/config/pipeline.ts');
      const { config, baseDir } = await loadConfig(options.config, pipelineSchema);
      const { serve } = await import('../../control/main.ts');
      const { desiredProblems } = await import('../../agent/control/desired-schema.ts');
      const firstToken = process.env['PENSTOCK_TOKEN'];
      const sealKeys = process.env['PENSTOCK_SEAL_KEYS'];
      // Queries run in child processes of this one: they need neither.
      delete process.env['PENSTOCK_TOKEN'];
      delete process.env['PENSTOCK_SEAL_KEYS'];
      await serve({
        config,
        baseDir,
        signal,
        version: version(),
        agentConfigProblems: desiredProblems,
        ...(options.port === undefined ? {} : { port: options.port }),
        ...(sealKeys === undefined || sealKeys === '' ? {} : { sealKeys }),
        ...(firstToken === undefined || firstToken === '' ? {} : { firstToken }),
        onServing: ({ url, loopbackOnly }) => {
          reportToParent({ kind: 'serving', url });
          if (options.json === true) process.stdout.write(`${toJson({ url, loopbackOnly })}\n`);
          else
            process.stdout.write(
              `penstock: serving ${url}${loopbackOnly ? ' to this machine only (no token exists)' : ''}\n`,
            );
        },
        onLog: (line) => process.stderr.write(line),
      });
    });
}
