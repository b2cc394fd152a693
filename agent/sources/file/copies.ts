/** Looking for the copy that was made of a file before it was truncated or deleted, by what was read of it. */
import { readdir, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemCode } from '../../../lib/errors.ts';
import { compressionOf, matchContent } from './gzip-content.ts';
import { fits, openFile, statFile, type FilePosition, type FileStats } from './tailed-file.ts';

export interface FoundFile {
  readonly path: string;
  readonly stats: FileStats;
}

/** The regular files in the folder of `path`. */
export async function filesBeside(path: string): Promise<FoundFile[]> {
  const folder = dirname(path);
  const names = await readdir(folder).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  const files: FoundFile[] = [];
  for (const name of names) {
    const stats = await statFile(join(folder, name));
    if (stats !== null) files.push({ path: join(folder, name), stats });
  }
  return files;
}

/** Opens the file in which `position` lies, as it stands there or compressed; null when it is in none of them. */
export async function findCopy(
  files: readonly FoundFile[],
  position: FilePosition,
  signal: AbortSignal,
): Promise<(FoundFile & { readonly handle: FileHandle; readonly isCompressed: boolean }) | null> {
  if (position.tail.bytes === 0) return null;
  // A compressed one last: it may be made of the copy at this moment.
  for (const isCompressed of [false, true]) {
    for (const { path, stats } of files) {
      if (!isCompressed && stats.size < position.offset) continue;
      const handle = await openFile(path, stats.inode);
      if (handle === null) continue;
      const isIt = isCompressed
        ? (await compressionOf(handle)) === 'gzip' &&
          (await matchContent(handle, [['', position]], signal)).key !== null
        : await fits(handle, position);
      if (isIt) return { path, stats, handle, isCompressed };
      await handle.close();
    }
  }
  return null;
}
