/** The passwords, tokens, keys and certificates that agent.yaml names, and which of them cannot be read. */
import { open } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { PathProblem } from '../lib/config/load.ts';
import { describeError } from '../lib/errors.ts';
import type { AgentConfig } from './config.ts';

const FILE_KEYS = ['passwordFile', 'tokenFile'];
const TLS_KEYS = ['ca', 'cert', 'key', 'clientCa', 'serverCert'];

/**
 * For `validate` only: an agent runs without them, with a problem of the source that is over when the file is there (a volume that is mounted
 * later, a certificate that is renewed).
 */
export async function namedFilesProblems({ control, sources }: AgentConfig, baseDir: string): Promise<PathProblem[]> {
  const named = [
    ...filesOf(control ?? {}, FILE_KEYS, ['control']),
    ...sources.flatMap((source, index) => {
      const { tls, security } = source as { readonly tls?: object; readonly security?: object }; // of some types of source
      return [
        ...filesOf(source, FILE_KEYS, ['sources', index]),
        ...filesOf(tls ?? {}, TLS_KEYS, ['sources', index, 'tls']),
        ...filesOf(security ?? {}, TLS_KEYS, ['sources', index, 'security']),
      ];
    }),
  ];
  const problems: PathProblem[] = [];
  for (const { path, file } of named) {
    const why = await unreadable(resolve(baseDir, file));
    if (why !== null) problems.push({ path, message: `cannot read ${file}: ${why}` });
  }
  return problems;
}

function filesOf(
  part: object,
  keys: readonly string[],
  path: readonly PropertyKey[],
): { readonly path: readonly PropertyKey[]; readonly file: string }[] {
  return Object.entries(part).flatMap(([key, file]: [string, unknown]) =>
    keys.includes(key) && typeof file === 'string' ? [{ path: [...path, key], file }] : [],
  );
}

async function unreadable(path: string): Promise<string | null> {
  try {
    const handle = await open(path, 'r');
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) return 'it is no file';
      return stats.size === 0 ? 'it is empty' : null;
    } finally {
      await handle.close();
    }
  } catch (error) {
    return describeError(error);
  }
}
