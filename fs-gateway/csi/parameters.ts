/**
 * What a storage class (or a persistent volume's attributes) may say.
 *
 *   blockSize, inlineBytes, grace, trash, durability, compression   options of the volume's format (docs/VOLUMES.md), for new volumes
 *   cacheSize    bound of a node's cache for this volume, as 50GB
 *   subPath      a folder of the volume: pods see it instead of the root
 * Keys of Kubernetes (`csi.storage.k8s.io/...`) are passed over; any other is refused by name.
 */
import { PenstockError } from '../../lib/errors.ts';
import { parseBytes } from '../../lib/units.ts';
import type { StringMap } from './protocol.ts';
import { invalid } from './status.ts';

const FORMAT_KEYS = ['blockSize', 'inlineBytes', 'grace', 'trash', 'durability', 'compression'];
const NODE_KEYS = ['cacheSize', 'subPath'];
const KUBERNETES = /(^|\.)(kubernetes|k8s)\.io\//;
/** Longer than any path that Linux takes. */
const PATH_BYTES_MAX = 4095;

export interface Parameters {
  readonly options: StringMap;
  readonly context: StringMap;
}

/** Throws INVALID_ARGUMENT naming the key. */
export function parseParameters(parameters: StringMap): Parameters {
  const options: Record<string, string> = {};
  const context: Record<string, string> = {};
  for (const [key, value] of Object.entries(parameters)) {
    if (KUBERNETES.test(key)) continue;
    if (FORMAT_KEYS.includes(key)) options[key] = value;
    else if (NODE_KEYS.includes(key)) context[key] = value;
    else throw invalid(`parameter '${key}': expected one of ${[...FORMAT_KEYS, ...NODE_KEYS].join(', ')}`);
  }
  parseContext(context);
  return { options, context };
}

/** A class of snapshots has none. Throws INVALID_ARGUMENT naming the key. */
export function refuseSnapshotParameters(parameters: StringMap): void {
  const unknown = Object.keys(parameters).find((key) => !KUBERNETES.test(key));
  if (unknown !== undefined) throw invalid(`parameter '${unknown}': a snapshot class has no parameters`);
}

export interface NodeContext {
  readonly cacheBytes?: number;
  /** Relative, its names without '.' and '..'; none for the root. */
  readonly subPath: readonly string[];
}

/** Throws INVALID_ARGUMENT. Others' keys are passed over: the container orchestrator adds its own. */
export function parseContext(context: StringMap): NodeContext {
  const { cacheSize, subPath = '' } = context;
  if (subPath.startsWith('/') || Buffer.byteLength(subPath) > PATH_BYTES_MAX || subPath.includes('\0')) {
    throw invalid(`subPath '${subPath.slice(0, 100)}': expected a path relative to the root of the volume`);
  }
  const names = subPath.split('/').filter((name) => name !== '' && name !== '.');
  if (names.includes('..')) throw invalid(`subPath '${subPath}': '..' is not allowed`);
  if (cacheSize === undefined) return { subPath: names };
  try {
    return { subPath: names, cacheBytes: parseBytes(cacheSize) };
  } catch (error) {
    if (error instanceof PenstockError) throw invalid(`cacheSize: ${error.message}`);
    throw error;
  }
}
