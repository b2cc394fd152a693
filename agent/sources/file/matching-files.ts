/** Which files a glob matches at the moment. */
import { glob } from 'node:fs/promises';
import type { FoundFile } from './copies.ts';
import { statFile } from './tailed-file.ts';

/** They are looked at side by side, as far as Node does so (its pool has four threads). */
const STATS_AT_ONCE = 16;
/** What Node makes of bytes of a name that are none. */
const NO_CHARACTER = '\uFFFD';

/** Why a file that the glob matches is left alone. */
export class NotFollowed extends Error {}

/** Keeps what the file system refuses, and `NotFollowed`, as a problem of the path (undefined). */
type Guard = (path: string, act: () => Promise<FoundFile | null>) => Promise<FoundFile | null | undefined>;

/** The oldest first, so that rotated files come in the order in which they were written. Ends early, with a part of them, when the signal fires. */
export async function matchingFiles(
  pattern: string,
  isExcluded: (path: string) => boolean,
  guarded: Guard,
  signal: AbortSignal,
): Promise<FoundFile[]> {
  // A name that exists is meant as it stands, whatever characters are in it.
  const literal = await statFile(pattern);
  if (literal !== null) return isExcluded(pattern) ? [] : [{ path: pattern, stats: literal }];
  const matches: FoundFile[] = [];
  let paths: string[] = [];
  const look = async (): Promise<void> => {
    const found = await Promise.all(paths.map((path) => guarded(path, () => statMatch(path))));
    for (const file of found) if (file !== null && file !== undefined) matches.push(file);
    paths = [];
  };
  for await (const path of glob(pattern)) {
    if (signal.aborted) break;
    if (!isExcluded(path) && paths.push(path) >= STATS_AT_ONCE) await look();
  }
  await look();
  return matches.sort((a, b) => a.stats.modifiedMs - b.stats.modifiedMs);
}

/** null when it is gone meanwhile. */
async function statMatch(path: string): Promise<FoundFile | null> {
  const stats = await statFile(path);
  if (stats !== null) return { path, stats };
  if (!path.includes(NO_CHARACTER)) return null;
  throw new NotFollowed(`the name of a file is not UTF-8, so it cannot be opened: rename ${path}`);
}
