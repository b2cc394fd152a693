/** `penstock demo`: everything embedded, one process tree, on this machine's own readings. */
import { InvalidArgumentError, type Command } from 'commander';
import { isCode } from '../../lib/errors.ts';
import { parseDuration } from '../../lib/units.ts';
import type { DemoSummary } from '../demo/demo.ts';
import { EXIT_PARTLY, printTable, toJson, untilSignal } from '../output.ts';

interface DemoCommandOptions {
  readonly dir: string;
  readonly for?: number;
  readonly rate: number;
  readonly json?: true;
}

const RATE_MAX = 1_000_000;

function parseRate(text: string): number {
  const rate = Number(text);
  if (!Number.isInteger(rate) || rate < 0 || rate > RATE_MAX)
    throw new InvalidArgumentError(`expected a whole number from 0 to ${RATE_MAX}`);
  return rate;
}

function parseFor(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError(isCode(error, 'config') ? error.message : String(error));
  }
}

export function addDemoCommand(program: Command): void {
  program
    .command('demo')
    .description("the whole pipeline in one process tree, on this machine's own readings")
    .option('--dir <dir>', 'data directory; a second start goes on where the first ended', './data')
    .option('--for <duration>', 'end after this, as 60s: drain, land, compact, query, unmount', parseFor)
    .option('--rate <n>', 'simulated readings per second beside the real ones', parseRate, 2000)
    .option('--json', 'print one JSON summary object as the last line')
    .action(async (options: DemoCommandOptions) => {
      const signal = untilSignal({ withTerminal: true });
      const { runDemo } = await import('../demo/demo.ts');
      const { summary, query, problems } = await runDemo({
        dir: options.dir,
        forMs: options.for,
        rate: options.rate,
        signal,
      });
      if (options.json === true) process.stdout.write(`${toJson(summary)}\n`);
      else {
        process.stdout.write(
          `\nSQL over the compacted Parquet, ${summary.mountpoint === null ? 'read from the objects' : `read through ${summary.mountpoint}`}:\n\n`,
        );
        printTable(query.table, false);
        process.stdout.write(`\n${summaryText(summary)}\n`);
      }
      for (const problem of problems) process.stderr.write(`penstock: ${problem}\n`);
      if (problems.length > 0) process.exitCode = EXIT_PARTLY;
    });
}

function summaryText(summary: DemoSummary): string {
  const width = Math.max(...Object.keys(summary).map((key) => key.length));
  return Object.entries(summary)
    .map(
      ([key, value]) =>
        `${key.padEnd(width)}  ${typeof value === 'number' ? value.toLocaleString('en-US') : String(value ?? 'none')}`,
    )
    .join('\n');
}
