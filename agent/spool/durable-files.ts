/** File changes that survive a power cut: the data is synced before the name, and the folder after it. */
import { constants } from 'node:fs';
import { copyFile, mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { PenstockError, systemCode } from '../../lib/errors.ts';

/** Syncs a folder: a created, renamed or deleted name in it is then durable. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Creates a folder with its parents; each new name is synced in its parent. */
export async function makeFolderDurably(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true });
  if (first === undefined) return;
  for (let folder = path; ; folder = dirname(folder)) {
    await syncFolder(dirname(folder));
    if (folder === first || folder === dirname(folder)) return;
  }
}

/** Replaces a small file: after a crash it has the old content or the new one. */
export async function replaceFileDurably(path: string, content: string): Promise<void> {
  const temporary = `${path}.tmp`;
  const handle = await open(temporary, 'w');
  try {
    await handle.writeFile(content);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await syncFolder(dirname(path));
}

/** Copies the present bytes of a file to a second name, for a person to look at; an earlier copy of that name is left as it is. */
export async function keepEvidence(path: string, as: string): Promise<void> {
  try {
    await copyFile(path, as, constants.COPYFILE_EXCL);
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return;
    await rm(as, { force: true });
    // On a full disk the evidence is given up, the readings around the damage are not.
    if (systemCode(error) !== 'ENOSPC') throw error;
  }
}

/** Writes all buffers at a position. A short write is continued, so that the error behind it (ENOSPC) is seen. */
export async function writeAll(handle: FileHandle, buffers: readonly Buffer[], position: number): Promise<void> {
  let rest = buffers.slice();
  let at = position;
  while (rest.length > 0) {
    // IOV_MAX is 1024 on Linux; a group rarely has more than a few dozen buffers.
    const { bytesWritten } = await handle.writev(rest.slice(0, 1024), at);
    if (bytesWritten === 0) throw new PenstockError('io', `a write of ${rest.length} buffers at ${at} wrote nothing`);
    at += bytesWritten;
    let skip = bytesWritten;
    while (rest.length > 0 && skip >= (rest[0]?.length ?? 0)) skip -= rest.shift()?.length ?? 0;
    if (skip > 0) rest = [rest[0]?.subarray(skip) ?? Buffer.alloc(0), ...rest.slice(1)];
  }
}
