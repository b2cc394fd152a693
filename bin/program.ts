/** The commands of the command line with their options (docs/CLI.md). Programs are imported when their command runs, so that `penstock --help` loads none of them. */
import { Command, Help } from 'commander';
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
import { EXAMPLES } from './examples.ts';
import { version } from './output.ts';

export function makeProgram(): Command {
  const program = new Command('penstock')
    .description('Edge-to-cloud data pipeline with a shared storage layer')
    .version(version())
    .exitOverride()
    .showHelpAfterError('(penstock --help lists the commands)')
    .configureHelp({
      showGlobalOptions: true,
      optionDescription(option) {
        const text = Help.prototype.optionDescription.call(this, option);
        return option.mandatory ? `${text} (required)` : text;
      },
    });
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
  addExamples(program, []);
  return program;
}

function addExamples(command: Command, path: readonly string[]): void {
  const name = path.join(' ');
  const examples = EXAMPLES.filter(([of]) => of === name).map(([of, rest]) => `  penstock ${of} ${rest}`);
  if (examples.length > 0) command.addHelpText('after', `\nFor example:\n${examples.join('\n')}`);
  for (const each of command.commands) addExamples(each, [...path, each.name()]);
}
