import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { PosixError } from '../../fs-gateway/vfs/operations.ts';
import type { Attributes } from '../../fs-gateway/vfs/operations.ts';
import { caller } from '../support/fs-volume.ts';

/** Creates a file with committed content; returns its inode number. */
export async function writeFile(open: OpenVolume, name: string, data: Buffer, parent = 1n): Promise<bigint> {
  const { entry, open: file } = await open.operations.create(caller(), parent, name, 0o644, 2, 0);
  const { ino } = entry.attributes;
  try {
    await open.operations.write(caller(), ino, file.handle, 0n, data, 2, false);
    await open.operations.flush(caller(), ino, file.handle, 0n);
  } finally {
    await open.operations.release(caller(), ino, file.handle, undefined);
  }
  return ino;
}

/** Unlinks, and waits until the records of what nobody has open are gone. */
export async function removeFile(open: OpenVolume, name: string): Promise<void> {
  await open.operations.unlink(caller(), 1n, name);
  await open.operations.drain();
}

/** The attributes of a name. Throws when there is none. */
export async function lookUp(open: OpenVolume, parent: bigint, name: string): Promise<Attributes> {
  const found = await open.operations.lookup(caller(), parent, name);
  if (!('attributes' in found)) throw new Error(`no '${name}' in ${parent}`);
  return found.attributes;
}

export async function makeDirectory(open: OpenVolume, name: string, parent = 1n): Promise<bigint> {
  const entry = await open.operations.mkdir(caller(), parent, name, 0o755, 0);
  return entry.attributes.ino;
}

/** The errno of an operation; 0: it succeeded. */
export async function errnoOf(run: () => unknown): Promise<number> {
  try {
    await run();
    return 0;
  } catch (error) {
    if (error instanceof PosixError) return error.errno;
    throw error;
  }
}

export async function namesIn(open: OpenVolume, directory: bigint): Promise<string[]> {
  const names: string[] = [];
  const { handle } = await open.operations.opendir(caller(), directory, 0);
  await open.operations.readdir(caller(), directory, handle, 0n, false, ({ name }) => names.push(name) > 0);
  await open.operations.releasedir(caller(), directory, handle);
  return names.filter((name) => name !== '.' && name !== '..').sort();
}

/** The inode number at a path of the volume. */
export async function walk(open: OpenVolume, path: string): Promise<bigint> {
  let ino = 1n;
  for (const name of path.split('/').slice(1)) ino = (await lookUp(open, ino, name)).ino;
  return ino;
}

/** The bytes of the file at a path. */
export async function contentAt(open: OpenVolume, path: string): Promise<Buffer> {
  const ino = await walk(open, path);
  const { attributes } = await open.operations.getattr(caller(), ino, undefined);
  const size = Number(attributes.size);
  const parts: Buffer[] = [];
  for (let at = 0; at < size; at += 2 ** 20) {
    parts.push(await open.operations.read(caller(), ino, 0n, BigInt(at), Math.min(2 ** 20, size - at), 0));
  }
  return Buffer.concat(parts);
}
