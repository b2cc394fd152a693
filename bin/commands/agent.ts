/** `penstock agent run|validate|test|tap|top`. */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { PenstockError } from '../../lib/errors.ts';
import { EXIT_PARTLY, print, reportToParent, toJson, untilSignal } from '../output.ts';
import { watch } from '../watch.ts';

interface AgentOptions {
  readonly config: string;
  readonly json?: true;
}

interface TestOptions extends AgentOptions {
  readonly topic?: string;
}

interface TapOptions extends AgentOptions {
  readonly stage: 'in' | 'out';
  readonly topic?: string;
  readonly limit?: number;
}

interface TopOptions extends AgentOptions {
  readonly once?: true;
}

export function addAgentCommands(program: Command): void {
  const agent = program.command('agent').description('read sensors and stream them into the log');

  agent
    .command('run')
    .description('run until SIGTERM or Ctrl-C; SIGHUP, or a change of the file, reads the configuration anew')
    .requiredOption('-c, --config <file>', 'agent.yaml')
    .option('--json', 'print the summary at the end as one JSON object')
    .action(async (options: AgentOptions) => {
      const { runReloading } = await import('../../agent/reload.ts');
      const summary = await runReloading({
        path: options.config,
        signal: untilSignal(),
        ...(process.connected && { onStatus: reportToParent }),
        log: (line) => process.stderr.write(`penstock: ${line}\n`),
      });
      print({ ...summary }, options.json);
    });

  agent
    .command('validate')
    .description('check agent.yaml: every problem at once, with its line')
    .requiredOption('-c, --config <file>', 'agent.yaml')
    .option('--json', 'print as one JSON object')
    .action(async (options: AgentOptions) => {
      const { checkAgentConfig } = await import('../../agent/main.ts');
      const { remarksOf } = await import('../../agent/config-remarks.ts');
      const { config, path } = await checkAgentConfig(options.config);
      const { agent: self, sources, log } = config;
      const remarks = remarksOf(config);
      print({ path, valid: true, agent: self.id, sources: sources.length, log, remarks }, options.json);
    });

  agent
    .command('test')
    .description(
      'what an agent makes of lines, in the format of the source (JSON where it is no file), as JSON lines; exit status 3 when some would be quarantined',
    )
    .argument('[file]', 'a file of lines; standard input without it')
    .requiredOption('-c, --config <file>', 'agent.yaml')
    .option('--topic <topic>', "as readings of the source with this `to`; the first source's without it")
    .action(async (file: string | undefined, options: TestOptions) => {
      const { loadAgentConfig } = await import('../../agent/main.ts');
      const { tryOut } = await import('../../agent/try-out.ts');
      const { config, baseDir } = await loadAgentConfig(options.config);
      const source = config.sources.find(({ to }) => options.topic === undefined || to === options.topic);
      if (source === undefined) {
        const known = config.sources.map(({ to }) => to).join(', ');
        throw new PenstockError('usage', `no source has to: ${options.topic ?? ''}: expected one of ${known}`);
      }
      const input = await (file === undefined ? text(process.stdin) : readFile(file, 'utf8')).catch(
        (error: unknown) => {
          throw new PenstockError('usage', `cannot read ${file ?? 'standard input'}`, { cause: error });
        },
      );
      const path = file ?? (source.type === 'file' ? source.path : '');
      const { results, failed } = await tryOut(config, baseDir, source, { lines: input.split('\n'), path }, Date.now());
      for (const result of results) process.stdout.write(`${toJson(result)}\n`);
      if (failed > 0) process.exitCode = EXIT_PARTLY;
    });

  agent
    .command('tap')
    .description(
      'readings of a running agent, as JSON lines, until Ctrl-C; those that cannot be shown in time are skipped',
    )
    .requiredOption('-c, --config <file>', 'agent.yaml of the running agent')
    .addOption(
      new Option('--stage <stage>', 'in: as the sources give them; out: as they are spooled')
        .choices(['in', 'out'])
        .default('out'),
    )
    .option('--topic <topic>', 'of this topic only')
    .option('--limit <n>', 'end after so many', positive)
    .action(async (options: TapOptions) => {
      const { loadAgentConfig } = await import('../../agent/main.ts');
      const { tapReadings } = await import('../../agent/look.ts');
      const { config } = await loadAgentConfig(options.config);
      const { stage, topic, limit = Infinity } = options;
      const show = (line: string): void => void process.stdout.write(`${line}\n`);
      await tapReadings(config, { stage, topic, limit }, show, untilSignal());
    });

  agent
    .command('top')
    .description('rates of a running agent per source and topic, its spool, lag, budget and rules, once a second')
    .requiredOption('-c, --config <file>', 'agent.yaml of the running agent')
    .option('--once', 'one look, after a second')
    .option('--json', 'print one JSON object a second')
    .action(showTop);
}

async function showTop(options: TopOptions): Promise<void> {
  const { loadAgentConfig } = await import('../../agent/main.ts');
  const { fetchStatus } = await import('../../agent/look.ts');
  const { drawTop, ratesOf } = await import('./agent-top.ts');
  const { config } = await loadAgentConfig(options.config);
  await watch({
    look: () => fetchStatus(config),
    show: (before, now) => (options.json === true ? `${toJson(ratesOf(before, now))}\n` : drawTop(before, now)),
    once: options.once,
    json: options.json,
  });
}

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('expected a number from 1');
  return value;
}
