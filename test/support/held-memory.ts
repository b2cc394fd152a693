import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What the buffers of this process take, without those that only wait for the collector. */
export function heldBytes(): number {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void; // V8's own
  collect();
  return process.memoryUsage().arrayBuffers;
}
