/** `penstock agent run|validate`. */
import type { Command } from 'commander';
import { print, reportToParent, untilSignal } from '../output.ts';

interface AgentOptions {
  readonly config: string;
  readonly json?: true;
}

export function addAgentCommands(program: Command): void {
  const agent = program.command('agent').description('read sensors and stream them into the log');

  agent
    .command('run')
    .description('run until SIGTERM or Ctrl-C; readings that are accepted are on disk first')
    .requiredOption('-c, --config <file>', 'agent.yaml')
    .option('--json', 'print the summary at the end as one JSON object')
    .action(async (options: AgentOptions) => {
      const { loadAgentConfig, runAgent } = await import('../../agent/main.ts');
      const signal = untilSignal();
      const { config, baseDir } = await loadAgentConfig(options.config);
      const summary = await runAgent({ config, baseDir, signal, onStatus: reportToParent });
      print({ ...summary }, options.json);
    });

  agent
    .command('validate')
    .description('check agent.yaml: every problem at once, with its line')
    .requiredOption('-c, --config <file>', 'agent.yaml')
    .option('--json', 'print as one JSON object')
    .action(async (options: AgentOptions) => {
      const { loadAgentConfig } = await import('../../agent/main.ts');
      const { config, path } = await loadAgentConfig(options.config);
      print(
        { path, valid: true, agent: config.agent.id, sources: config.sources.length, log: config.log },
        options.json,
      );
    });
}
