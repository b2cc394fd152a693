/**
 * The one command line (docs/CLI.md). Parses, calls a program's `main.ts`, prints, and sets the exit status:
 * 0 done, 1 failed, 2 bad usage or configuration, 3 partly done (what was left is named in the output).
 */
import { CommanderError } from 'commander';
import { describeError, isSystemError, PenstockError } from '../lib/errors.ts';
import { exitStatus } from './output.ts';
import { makeProgram } from './program.ts';

// A reader that goes away (`penstock ... | head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
// Progress and messages that nobody can read any more (a terminal that was closed) must not end the work they are about.
process.stderr.on('error', () => undefined);

try {
  await makeProgram().parseAsync();
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
