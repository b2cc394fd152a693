/**
 * The one command line (docs/CLI.md). Parses, calls a program's `main.ts`, prints, and sets the exit status:
 * 0 done, 1 failed, 2 bad usage or configuration, 3 partly done (what was left is named in the output).
 * Programs are imported when their command runs, so that `penstock --help` loads none of them.
 */
import { Command, CommanderError } from 'commander';
import { describeError, isSystemError, PenstockError } from '../lib/errors.ts';
import { addAgentCommands } from './commands/agent.ts';
import { addLakeCommands } from './commands/lake.ts';
import { addCatalogCommand } from './commands/catalog.ts';
import { addDatasetCommands } from './commands/dataset.ts';
import { addLineageCommands } from './commands/lineage.ts';
import { addQuarantineCommands } from './commands/quarantine.ts';
import { addFsCommands } from './commands/fs.ts';
import { addCtlCommand } from './commands/ctl.ts';
import { addCsiCommand } from './commands/csi.ts';
import { addServeCommand } from './commands/serve.ts';
import { addDemoCommand } from './commands/demo.ts';
import { exitStatus, version } from './output.ts';

const program = new Command('penstock')
  .description('Edge-to-cloud data pipeline with a shared storage layer')
  .version(version())
  .exitOverride()
  .showHelpAfterError('(penstock --help lists the commands)')
  .configureHelp({ showGlobalOptions: true });

addDemoCommand(program);
addAgentCommands(program);
addLakeCommands(program);
addQuarantineCommands(program);
addDatasetCommands(program);
addLineageCommands(program);
addFsCommands(program);
addCatalogCommand(program);
addServeCommand(program);
addCsiCommand(program);
addCtlCommand(program);

// A reader that goes away (`penstock ... | head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
// Progress and messages that nobody can read any more (a terminal that was closed) must not end the work they are about.
process.stderr.on('error', () => undefined);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    // A disk that is full or a path that may not be read is no defect of ours: where in the code it was met helps nobody.
    const isExpected = error instanceof PenstockError || isSystemError(error);
    const text = isExpected ? describeError(error) : error instanceof Error ? error.stack : String(error);
    process.stderr.write(`penstock: ${text ?? 'unknown error'}\n`);
    process.exitCode = exitStatus(error);
  }
}
// The channel to a parent (`penstock demo`) would keep this process alive.
process.disconnect?.();
