/** `penstock serve`: the REST API and the admin page. */
import { InvalidArgumentError, type Command } from 'commander';
import { reportToParent, toJson, untilSignal, version } from '../output.ts';
import { loadPipeline } from './pipeline-options.ts';

interface ServeCommandOptions {
  readonly config: string;
  readonly port?: number;
  readonly metrics?: string;
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
    .option('--metrics <host:port>', 'serve /metrics, /healthz and /readyz there too, without a token')
    .option('--json', 'print the address as one JSON object')
    .action(async (options: ServeCommandOptions) => {
      const signal = untilSignal();
      const { config, baseDir } = await loadPipeline(options);
      const { serve } = await import('../../control/main.ts');
      const { volumeToolsOf } = await import('../volume-tools.ts');
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
        volumeTools: volumeToolsOf(config, baseDir),
        ...(options.port === undefined ? {} : { port: options.port }),
        ...(options.metrics === undefined ? {} : { metrics: options.metrics }),
        ...(sealKeys === undefined || sealKeys === '' ? {} : { sealKeys }),
        ...(firstToken === undefined || firstToken === '' ? {} : { firstToken }),
        onServing: (serving) => {
          const { url, metricsUrl, loopbackOnly } = serving;
          reportToParent({ kind: 'serving', url });
          const toWhom = loopbackOnly ? ' to this machine only (no token exists)' : '';
          const scraped = metricsUrl === undefined ? '' : `, and ${metricsUrl}/metrics to everybody`;
          process.stdout.write(
            options.json === true ? `${toJson(serving)}\n` : `penstock: serving ${url}${toWhom}${scraped}\n`,
          );
        },
        onLog: (line) => process.stderr.write(line),
      });
    });
}
