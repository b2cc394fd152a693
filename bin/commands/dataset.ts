/** `penstock dataset erase|snapshot`. */
import type { Command } from 'commander';
import { counted } from '../../lib/units.ts';
import { print, printTable, untilSignal } from '../output.ts';
import { progressOnStderr } from './fs-arguments.ts';
import { configOption, jsonOption, loadPipeline, type PipelineOptions, report } from './pipeline-options.ts';

interface EraseOptions extends PipelineOptions {
  readonly dataset: string;
  readonly where: string;
  readonly dryRun?: true;
}

interface SnapshotOptions extends PipelineOptions {
  readonly dataset: string;
  readonly snapshot?: string;
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
            process.stderr.write(`${options.dataset} ${hour}: ${counted(rows, 'row')} in ${counted(files, 'file')}\n`);
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
  addSnapshotCommands(dataset);
}

function addSnapshotCommands(dataset: Command): void {
  const snapshot = dataset
    .command('snapshot')
    .description('a snapshot of the table as read-only files in the volume, kept for as long as you want');

  snapshot
    .command('create')
    .description('at /lake/DATASET/.snapshots/ID, which no listing shows; no data is copied')
    .addOption(configOption())
    .requiredOption('--dataset <name>', 'of this dataset')
    .option('--snapshot <id>', 'of the table (default: the current one)')
    .addOption(jsonOption())
    .action(async (options: SnapshotOptions) => {
      const { snapshotDataset } = await import('../../fs-gateway/tools/main.ts');
      const { dataset: name, snapshot: id } = options;
      const loaded = await loadPipeline(options);
      const request = { ...loaded, dataset: name, snapshot: id, progress: progressOnStderr() };
      print({ ...(await snapshotDataset(request)) }, options.json);
    });

  snapshot
    .command('list')
    .description('the snapshots of a dataset that are kept in the volume')
    .addOption(configOption())
    .requiredOption('--dataset <name>', 'of this dataset')
    .addOption(jsonOption())
    .action(async (options: SnapshotOptions) => {
      const { datasetSnapshots } = await import('../../fs-gateway/tools/main.ts');
      const found = await datasetSnapshots({ ...(await loadPipeline(options)), dataset: options.dataset });
      printTable(
        found.map((one) => ({ ...one })),
        options.json,
      );
    });

  snapshot
    .command('delete')
    .description('its files go; objects that nothing else needs go with the next compaction')
    .addOption(configOption())
    .requiredOption('--dataset <name>', 'of this dataset')
    .requiredOption('--snapshot <id>', 'as list prints it')
    .addOption(jsonOption())
    .action(async (options: SnapshotOptions & { readonly snapshot: string }) => {
      const { removeDatasetSnapshot } = await import('../../fs-gateway/tools/main.ts');
      const { dataset: name, snapshot: id } = options;
      await removeDatasetSnapshot({ ...(await loadPipeline(options)), dataset: name, snapshot: id });
      print({ dataset: name, snapshot: id }, options.json);
    });
}
