/** `penstock land|compact|cost`. */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { counted, formatBytes } from '../../lib/units.ts';
import type { CompactStatus, PlannedGroup } from '../../compactor/main.ts';
import { print, printTable, reportToParent, untilSignal } from '../output.ts';
import { configOption, jsonOption, loadPipeline, type PipelineOptions, report } from './pipeline-options.ts';

interface LandOptions extends PipelineOptions {
  readonly once?: true;
  readonly skipDamaged?: true;
  readonly listen?: string;
}

interface CompactOptions extends PipelineOptions {
  readonly dataset?: string;
  readonly hour?: number;
  readonly shard?: { readonly index: number; readonly count: number };
  readonly dryRun?: true;
  readonly ignoreLag?: true;
  readonly rewriteAll?: true;
  readonly files?: true;
}

interface CostOptions extends PipelineOptions {
  readonly by: 'dataset' | 'day' | 'week' | 'node' | 'files';
  readonly dataset?: string;
  readonly days: number;
}

const HOUR_MS = 3_600_000;

/** `2026-01-31T07`, UTC, as hours since the epoch. */
export function parseHour(text: string): number {
  const ms = /^\d{4}-\d{2}-\d{2}T\d{2}$/.test(text) ? Date.parse(`${text}:00:00Z`) : NaN;
  // Date.parse takes the 31st of a month of 30 days: what it means must print as what was given.
  if (Number.isNaN(ms) || new Date(ms).toISOString().slice(0, 13) !== text) {
    throw new InvalidArgumentError('expected an hour in UTC, as 2026-01-31T07');
  }
  return ms / HOUR_MS;
}

/** `I/N` with 0 <= I < N, as a Kubernetes Indexed Job counts. */
export function parseShard(text: string): { index: number; count: number } {
  const match = /^(\d{1,6})\/(\d{1,6})$/.exec(text);
  const index = Number(match?.[1]);
  const count = Number(match?.[2]);
  if (match === null || index >= count) throw new InvalidArgumentError('expected I/N with I from 0 to N-1, as 0/4');
  return { index, count };
}

function parseDays(text: string): number {
  const days = Number(text);
  if (!(days > 0)) throw new InvalidArgumentError('expected a number of days');
  return days;
}

export function addLakeCommands(program: Command): void {
  program
    .command('land')
    .description('take records from the log into small Parquet files of the table, each once')
    .addOption(configOption())
    .option('--once', "end at the log's end as seen at the start")
    .option('--skip-damaged', 'go past damaged batches of a log in files: named, copied aside, counted as lost')
    .option('--listen <host:port>', 'serve /healthz, /readyz and /metrics there')
    .addOption(jsonOption())
    .action(async (options: LandOptions) => {
      const signal = untilSignal();
      const { config, baseDir } = await loadPipeline(options);
      const { land } = await import('../../compactor/main.ts');
      const told = new Set<string>();
      const { summary, problems } = await land(config, baseDir, {
        once: options.once === true,
        skipDamaged: options.skipDamaged === true,
        ...(options.listen !== undefined && { listen: options.listen }),
        onListening: (url) => reportToParent({ kind: 'listening', url }),
        onTrace: (line) => process.stderr.write(`penstock: ${line}\n`),
        signal,
        onStatus: (status) => {
          reportToParent(status);
          if (status.kind !== 'problem') return;
          process.stderr.write(`penstock: ${status.dataset}: ${status.message}\n`);
          told.add(status.message);
        },
      });
      print({ ...summary }, options.json);
      report(problems, told);
    });

  program
    .command('compact')
    .description('merge the small files of each hour into large, sorted ones without repeats')
    .addOption(configOption())
    .option('--dataset <name>', 'only this dataset')
    .option('--hour <hour>', 'only this hour, UTC, as 2026-01-31T07', parseHour)
    .option('--shard <i/n>', 'only the groups of this shard, counted from 0', parseShard)
    .option('--dry-run', 'print what would be done')
    .addOption(
      new Option('--files', 'a dry run that prints each file of the hours, and why it is rewritten or not').implies({
        dryRun: true,
      }),
    )
    .option('--ignore-lag', 'also the hours that are not over')
    .option('--rewrite-all', 'every file, also those that need nothing: after a change of sort or dedup')
    .addOption(jsonOption())
    .action(async (options: CompactOptions) => {
      const signal = untilSignal();
      const { config, baseDir } = await loadPipeline(options);
      const { compact } = await import('../../compactor/main.ts');
      const told = new Set<string>();
      const { summary, plan, choices, problems, notes } = await compact(config, baseDir, {
        ...(options.dataset === undefined ? {} : { dataset: options.dataset }),
        ...(options.hour === undefined ? {} : { hour: options.hour }),
        ...(options.shard === undefined ? {} : { shard: options.shard }),
        dryRun: options.dryRun === true,
        ignoreLag: options.ignoreLag === true,
        rewriteAll: options.rewriteAll === true,
        explain: options.files === true,
        signal,
        onStatus: (status) => {
          reportToParent(status);
          if (options.json === true) return;
          process.stderr.write(progressLine(status));
          if (status.kind !== 'group') told.add(status.message);
        },
      });
      if (options.dryRun === true) {
        printTable(
          (options.files === true ? choices : plan).map((line) => ({ ...line })),
          options.json,
        );
        process.stderr.write(`penstock: ${planLine(plan)}\n`);
      } else print({ ...summary }, options.json);
      for (const note of notes) if (!told.has(note)) process.stderr.write(`penstock: ${note}\n`);
      if (plan.length === 0 && problems.length === 0 && options.ignoreLag !== true) {
        const lag = `${config.compactor.lag / 60_000} min`;
        process.stderr.write(
          `penstock: no hour that ended more than ${lag} ago (compactor.lag) has files to merge; --ignore-lag takes later ones too\n`,
        );
      }
      report(problems, told);
    });

  program
    .command('cost')
    .description('what landing, compacting and erasing cost, and what became dearer')
    .addOption(configOption())
    .option('--dataset <name>', 'only this dataset')
    .addOption(
      new Option('--by <what>', 'one line for each; files: what small files of the lander cost')
        .choices(['dataset', 'day', 'week', 'node', 'files'])
        .default('dataset'),
    )
    .option('--days <n>', 'the last N days', parseDays, 7)
    .addOption(jsonOption())
    .action(async (options: CostOptions) => {
      const { config, baseDir } = await loadPipeline(options);
      const { cost } = await import('../../compactor/main.ts');
      const { by, days, dataset } = options;
      const { rows, regressions } = await cost(config, baseDir, {
        by,
        days,
        ...(dataset === undefined ? {} : { dataset }),
      });
      printTable(rows, options.json);
      for (const regression of regressions) process.stderr.write(`penstock: ${regression}\n`);
    });
}

function planLine(plan: readonly PlannedGroup[]): string {
  const sum = (pick: (group: PlannedGroup) => number): number => plan.reduce((total, group) => total + pick(group), 0);
  const cost = plan.some((group) => group.expectedCost !== undefined)
    ? `, ${sum((group) => group.expectedCost ?? 0).toFixed(4)} in prices.currency`
    : '';
  return (
    `${counted(plan.length, 'group')}, ${counted(
      sum((group) => group.files),
      'file',
    )}, ${formatBytes(sum((group) => group.bytes))}; ` +
    `about ${sum((group) => group.expectedSeconds)} s, ${Math.ceil(sum((group) => group.expectedCpuSeconds))} CPU s${cost}`
  );
}

function progressLine(status: CompactStatus): string {
  if (status.kind !== 'group') return `penstock: ${status.message}\n`;
  const { group, left, etaSeconds } = status;
  return `${group.dataset} ${group.hour}: ${counted(group.files, 'file')}, ${counted(group.rows, 'row')}; ${counted(left, 'group')} left, about ${Math.ceil(etaSeconds)} s\n`;
}
