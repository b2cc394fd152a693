/** The datasets that a command works on. */
import { PenstockError } from '../errors.ts';
import type { DatasetConfig, PipelineConfig } from './pipeline.ts';

/** All of them without a name. Throws `usage` for a name that is not configured. */
export function selectDatasets(config: PipelineConfig, name: string | undefined): readonly DatasetConfig[] {
  const found = config.datasets.filter((dataset) => name === undefined || dataset.name === name);
  if (found.length > 0) return found;
  const names = config.datasets.map((dataset) => dataset.name).join(', ');
  throw new PenstockError('usage', `there is no dataset ${name ?? ''}: expected one of ${names}`);
}
