/** A process that lands and compacts a pipeline over and over until it is killed: `pipeline-child.ts <directory> land|compact <seed>`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compact, land } from '../../compactor/main.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';

const [dir = '', role = ''] = process.argv.slice(2);
const config = parseConfig(readFileSync(join(dir, 'pipeline.yaml'), 'utf8'), 'pipeline.yaml', pipelineSchema);
const signal = new AbortController().signal;
const scratchRoot = join(dir, 'scratch');
process.send?.('started');
while (true) {
  if (role === 'land') await land(config, dir, { once: true, signal, scratchRoot });
  else await compact(config, dir, { signal, scratchRoot, ignoreLag: true });
}
