/** `penstock lineage`: which data trained which model. */
import { Option, type Command } from 'commander';
import { EXIT_PARTLY, print, printTable } from '../output.ts';
import { configOption, jsonOption, loadPipeline, type PipelineOptions } from './pipeline-options.ts';

interface RecordOptions extends PipelineOptions {
  readonly dataset: string;
  readonly snapshot?: string;
  readonly job: string;
  readonly model?: string;
}

interface ListOptions extends PipelineOptions {
  readonly dataset?: string;
  readonly model?: string;
  readonly snapshot?: string;
  readonly file?: string;
}

export function addLineageCommands(program: Command): void {
  const lineage = program.command('lineage').description('which data trained which model, and which models saw a file');

  lineage
    .command('record')
    .description('a job read a snapshot of a dataset, and made a model of it')
    .addOption(configOption())
    .requiredOption('--dataset <name>', 'that it read')
    .option('--snapshot <id>', 'of the table (default: the current one)')
    .addOption(new Option('--job <name>', 'who read it').env('PENSTOCK_JOB').makeOptionMandatory())
    .addOption(new Option('--model <name>', 'that came of it').env('PENSTOCK_MODEL'))
    .addOption(jsonOption())
    .action(async (options: RecordOptions) => {
      const { recordUse } = await import('../../control/lake/lineage-command.ts');
      const { config, baseDir } = await loadPipeline(options);
      const { dataset, snapshot: snapshotId, job, model } = options;
      print({ ...(await recordUse(config, baseDir, { dataset, snapshotId, job, model })) }, options.json);
    });

  lineage
    .command('list')
    .description(
      'the uses of a dataset, by a model, or of a file; exit status 3 when some snapshots are not known any more',
    )
    .addOption(configOption())
    .option('--dataset <name>', 'uses of this dataset')
    .option('--snapshot <id>', 'only of this snapshot')
    .option('--model <name>', 'only what this model was trained with')
    .option('--file <path>', 'only of snapshots that have this Parquet file')
    .addOption(jsonOption())
    .action(async (options: ListOptions) => {
      const { askLineage } = await import('../../control/lake/lineage-command.ts');
      const { config, baseDir } = await loadPipeline(options);
      const { dataset, model, snapshot: snapshotId, file } = options;
      const { uses, unknown } = await askLineage(config, baseDir, { dataset, model, snapshotId, file });
      const rows = uses.map(({ recordedMs, ...use }) => ({ recorded: new Date(recordedMs).toISOString(), ...use }));
      printTable(rows, options.json);
      if (unknown.length === 0) return;
      process.stderr.write(`penstock: expired, and not known whether they had the file: ${unknown.join(', ')}\n`);
      process.exitCode = EXIT_PARTLY;
    });
}
