/**
 * Shows a folder of a staged volume at a pod's target path.
 *
 * Invariants: the folder is found by descriptors, name by name, and a symbolic link on the way is refused: a pod that can write into the volume must
 * not be able to lead a bind mount, made as root, to a place outside of it.
 */
import { constants } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { describeError, systemCode } from '../../lib/errors.ts';
import { bindMount } from '../fuse/mount.ts';
import { withinLook } from './mounts.ts';
import { CsiError, Status } from './status.ts';

/** open(2): a descriptor that names a place and opens nothing, so that no request reaches the file system for it. */
const O_PATH = 0o10000000;
const FOLDER = O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const FOLDER_MODE = 0o755;

export interface BindOptions {
  readonly root: string;
  /** The volume in it: made by nobody who publishes it. */
  readonly home: readonly string[];
  readonly subPath: readonly string[];
  readonly target: string;
  readonly readOnly: boolean;
  /** Make the folders of `subPath` that are missing. */
  readonly make: boolean;
}

/** Throws FAILED_PRECONDITION when the folder is not there or not a folder, UNAVAILABLE when the mount does not answer. */
export async function bindFolder(options: BindOptions): Promise<void> {
  const { root, target, readOnly } = options;
  const opening = openShown(options);
  const folder = await withinLook(opening, root).catch((error: unknown) => {
    // What is opened after that is shown to nobody.
    void opening.then((late) => late.close()).catch(() => undefined);
    throw error;
  });
  try {
    bindMount(ofDescriptor(folder), target, readOnly);
  } finally {
    await folder.close();
  }
}

async function openShown({ root, home, subPath, make }: BindOptions): Promise<FileHandle> {
  const volume = await openFolder(root, home, false);
  return openFolder(ofDescriptor(volume), subPath, make).finally(() => volume.close());
}

async function openFolder(root: string, names: readonly string[], make: boolean): Promise<FileHandle> {
  // The trailing slash: `root` may be a link of /proc.
  let folder = await open(`${root}/.`, FOLDER);
  for (const name of names) {
    const path = `${ofDescriptor(folder)}/${name}`;
    try {
      if (make) await mkdir(path, FOLDER_MODE).catch(ignoreExisting);
      const next = await open(path, FOLDER);
      await folder.close();
      folder = next;
    } catch (error) {
      await folder.close();
      if (!['ENOENT', 'ENOTDIR', 'ELOOP'].includes(systemCode(error) ?? '')) throw error;
      throw new CsiError(
        Status.FAILED_PRECONDITION,
        `subPath '${names.join('/')}': '${name}' is not a folder of the volume (${describeError(error)})`,
      );
    }
  }
  return folder;
}

function ofDescriptor(folder: FileHandle): string {
  return `/proc/self/fd/${folder.fd}`;
}

function ignoreExisting(error: unknown): void {
  if (systemCode(error) !== 'EEXIST') throw error;
}
