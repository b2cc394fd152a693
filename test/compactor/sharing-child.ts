/** A lander that goes on until SIGTERM: `sharing-child.ts <directory> <lease in ms>`. Its last words are what it landed. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { land } from '../../compactor/main.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';

const [dir = '', leaseMs = ''] = process.argv.slice(2);
const config = parseConfig(readFileSync(join(dir, 'pipeline.yaml'), 'utf8'), 'pipeline.yaml', pipelineSchema);
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());
process.send?.('started');
const { problems } = await land(config, dir, {
  once: false,
  signal: stop.signal,
  scratchRoot: join(dir, 'scratch'),
  leaseMs: Number(leaseMs),
});
process.send?.(problems, () => process.exit());
