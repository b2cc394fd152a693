/** `penstock dataset erase`. */
import type { Command } from 'commander';
import { print, untilSignal } from '../output.ts';
import { configOption, jsonOption, loadPipeline, type PipelineOptions, report } from './pipeline-options.ts';

interface EraseOptions extends PipelineOptions {
  readonly dataset: string;
  readonly where: string;
  readonly dryRun?: true;
}

export function addDatasetCommands(program: Command): void {
  const dataset = program.command('dataset').description('a dataset as a whole');
  dataset
    .command('erase')
    .description('remove rows for good: from the table, its older snapshots and the store')
    .addOption(configOption())
    .requiredOption('--dataset <name>', 'of this dataset')
    .requiredOption('--where <sql>', 'the rows: an SQL condition on its columns, as "sensor = \'a-7\'"')
    .option('--dry-run', 'count the rows and files, change nothing')
    .addOption(jsonOption())
    .action(async (options: EraseOptions) => {
      const signal = untilSignal();
      const { config, baseDir } = await loadPipeline(options);
      const { eraseRows } = await import('../../compactor/main.ts');
      const { summary, problems } = await eraseRows(config, baseDir, {
        dataset: options.dataset,
        where: options.where,
        dryRun: options.dryRun === true,
        signal,
        onHour: ({ hour, rows, files }) => {
          if (options.json !== true)
            process.stderr.write(`${options.dataset} ${hour}: ${rows} rows in ${files} files\n`);
        },
      });
      print({ ...summary }, options.json);
      if (summary.quarantined > 0) {
        process.stderr.write(
          `penstock: ${summary.quarantined} quarantined records hold raw values and were not looked at\n`,
        );
      }
      report(problems);
    });
}
