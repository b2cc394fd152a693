/** `penstock quarantine list|show|replay`: the records that did not fit. */
import { InvalidArgumentError, type Command } from 'commander';
import { print, printTable, untilSignal } from '../output.ts';
import { configOption, jsonOption, loadPipeline, type PipelineOptions, report } from './pipeline-options.ts';

interface QuarantineOptions extends PipelineOptions {
  readonly dataset?: string;
  readonly object?: string;
}

/** A value is cut to this in a table; --json has all of it. */
const CELL_CHARS_MAX = 100;
const LIMIT_MAX = 100_000;

function parseLimit(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > LIMIT_MAX) {
    throw new InvalidArgumentError(`expected a whole number from 1 to ${LIMIT_MAX}`);
  }
  return limit;
}

export function addQuarantineCommands(program: Command): void {
  const quarantine = program.command('quarantine').description('the records that did not fit their dataset');

  quarantine
    .command('list')
    .description('the objects that hold them, newest first, with the number of records for each reason')
    .addOption(configOption())
    .option('--dataset <name>', 'only this dataset')
    .addOption(jsonOption())
    .action(async (options: QuarantineOptions) => {
      const { config, baseDir } = await loadPipeline(options);
      const { quarantineList } = await import('../../compactor/main.ts');
      const entries = await quarantineList(config, baseDir, options.dataset);
      const rows = entries.map(({ committedMs, reasons, ...entry }) => ({
        ...entry,
        committed: new Date(committedMs).toISOString(),
        reasons: options.json === true ? reasons : reasonsText(reasons),
      }));
      printTable(rows, options.json);
    });

  quarantine
    .command('show')
    .description('the records as they came: reason, topic, partition, offset and raw value')
    .addOption(configOption())
    .requiredOption('--dataset <name>', 'of this dataset')
    .option('--object <key>', 'only those of this object, as list prints it')
    .option('--reason <text>', 'only those whose reason holds this text')
    .option('--limit <n>', 'at most so many', parseLimit, 20)
    .addOption(jsonOption())
    .action(
      async (
        options: QuarantineOptions & { readonly dataset: string; readonly reason?: string; readonly limit: number },
      ) => {
        const { config, baseDir } = await loadPipeline(options);
        const { quarantineShow } = await import('../../compactor/main.ts');
        const letters = await quarantineShow(config, baseDir, {
          dataset: options.dataset,
          ...(options.object === undefined ? {} : { object: options.object }),
          ...(options.reason === undefined ? {} : { reason: options.reason }),
          limit: options.limit,
        });
        if (options.json === true) {
          printTable(
            letters.map((letter) => ({ ...letter })),
            true,
          );
          return;
        }
        const rows = letters.map(({ headers: _, reason, key, value, ...letter }) => ({
          reason: cellOf(reason),
          ...letter,
          key: cellOf(key),
          value: cellOf(value),
        }));
        printTable(rows, false);
      },
    );

  quarantine
    .command('replay')
    .description('land them again, after the schema, the configuration or the program was changed so that they fit')
    .addOption(configOption())
    .option('--dataset <name>', 'only this dataset')
    .option('--object <key>', 'only those of this object, as list prints it')
    .option('--dry-run', 'count what would fit, change nothing')
    .addOption(jsonOption())
    .action(async (options: QuarantineOptions & { readonly dryRun?: true }) => {
      const signal = untilSignal();
      const { config, baseDir } = await loadPipeline(options);
      const { quarantineReplay } = await import('../../compactor/main.ts');
      const { summary, problems } = await quarantineReplay(config, baseDir, {
        ...(options.dataset === undefined ? {} : { dataset: options.dataset }),
        ...(options.object === undefined ? {} : { object: options.object }),
        dryRun: options.dryRun === true,
        signal,
      });
      print({ ...summary }, options.json);
      report(problems);
    });
}

const reasonsText = (reasons: Readonly<Record<string, number>>): string =>
  Object.entries(reasons)
    .map(([reason, count]) => `${reason} (${count})`)
    .join(', ');

/** On one line, whatever bytes a record has: it must not steer the terminal. */
function cellOf(value: string | null): string {
  if (value === null) return '(null)';
  const text = value.replace(
    /[\u0000-\u001f\u007f-\u009f]/g,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
  return text.length > CELL_CHARS_MAX ? `${text.slice(0, CELL_CHARS_MAX)}…` : text;
}
