/** What the commands on a pipeline.yaml share. */
import { Option } from 'commander';
import { EXIT_PARTLY } from '../output.ts';

export interface PipelineOptions {
  readonly config: string;
  readonly json?: true;
}

/** What was left undone, by name: exit status 3. `told` was printed already, when it was found. */
export function report(problems: readonly string[], told: ReadonlySet<string> = new Set()): void {
  for (const problem of problems) if (!told.has(problem)) process.stderr.write(`penstock: ${problem}\n`);
  if (problems.length > 0) process.exitCode = EXIT_PARTLY;
}

export const configOption = (): Option => new Option('-c, --config <file>', 'pipeline.yaml').makeOptionMandatory();
export const jsonOption = (): Option => new Option('--json', 'print as JSON');

export async function loadPipeline(options: PipelineOptions) {
  const { loadPipelineConfig } = await import('../../lib/config/pipeline.ts');
  return loadPipelineConfig(options.config);
}
