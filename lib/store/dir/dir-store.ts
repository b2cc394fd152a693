/**
 * The object store in a directory of this machine: `dir:PATH`. An object is one regular file at ROOT/key.
 *
 * Invariants
 * - An object gets its name only when all of its bytes are on the disk: written to the upload area, fsynced, then renamed (or
 *   linked, for `ifAbsent`: link(2) has one winner over all processes), then the chain of directories is fsynced.
 * - An object's file is never written again: an overwrite is a new file, so a reader that has the old one open keeps it.
 * - The etag is (inode, size, modification time). The time is set here, in microseconds that grow with every put of a process,
 *   because the kernel's own stamp moves once in 4 ms and the number of a freed inode is given out again at once.
 * - No key leaves the root: keys are checked, and a symbolic link anywhere below the root is refused.
 * Failure: a kill at any moment leaves a file in the upload area and no object, or the object; see upload-area.ts.
 * Limits: `a` and `a/b` cannot both be objects (as on every S3 server over a file system). A key that is changed with `ifMatch`
 * must be changed by `ifMatch` only: a plain put does not wait for its lock.
 */
import { constants } from 'node:fs';
import { copyFile, link, lstat, mkdir, open, realpath, rename, rm, rmdir, unlink } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fromSystemError, PenstockError, systemCode } from '../../errors.ts';
import { pathOfUrl } from '../../urls.ts';
import { writeAll } from '../../write-all.ts';
import { assertObjectKey, throwIfAborted } from '../object-key.ts';
import type { CallOptions, GetOptions, ObjectInfo, ObjectStore, PutOptions } from '../store.ts';
import { DurableDirectories } from './durable-directories.ts';
import { withSwapLock } from './swap-lock.ts';
import { UploadArea } from './upload-area.ts';
import { walk } from './walk.ts';

/** A folder may be removed (it was empty) between its creation and the rename into it; each retry needs another such removal. */
const FOLDER_RETRIES_MAX = 100;
/** Files removed at once. */
const DELETE_BATCH = 32;

/** The path. Throws `config`. */
export function parseDirUrl(url: URL): string {
  const path = resolve(pathOfUrl(url));
  if (url.search !== '') throw new PenstockError('config', `'dir:${path}' takes no options, not '${url.search}'`);
  return path;
}

export async function openDirStore(url: URL): Promise<ObjectStore> {
  const path = parseDirUrl(url);
  try {
    await mkdir(path, { recursive: true });
    const root = await realpath(path);
    return new DirStore(root, await UploadArea.open(root, Date.now()));
  } catch (error) {
    throw fromSystemError(error, `cannot open the object store dir:${path}`);
  }
}

class DirStore implements ObjectStore {
  readonly url: string;
  readonly #root: string;
  readonly #uploads: UploadArea;
  readonly #directories: DurableDirectories;
  #lastStampUs = 0;
  #closed = false;

  constructor(root: string, uploads: UploadArea) {
    this.url = `dir:${root}`;
    this.#root = root;
    this.#uploads = uploads;
    this.#directories = new DurableDirectories(root);
  }

  async put(key: string, body: Uint8Array | readonly Uint8Array[], options: PutOptions = {}): Promise<ObjectInfo> {
    return this.#run('put', key, options, async () => {
      const { path, handle } = await this.#uploads.create();
      return this.#finish(key, path, handle, options, async () => {
        for (const piece of body instanceof Uint8Array ? [body] : body) await writeAll(handle, piece);
      });
    });
  }

  async putFile(key: string, source: string, options: PutOptions = {}): Promise<ObjectInfo> {
    return this.#run('put', key, options, async () => {
      const path = this.#uploads.newPath();
      try {
        // The copy shares the source's blocks where the file system can (btrfs, xfs).
        await copyFile(source, path, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
        const handle = await open(path, 'r');
        return await this.#finish(key, path, handle, options, () => handle.chmod(0o644));
      } catch (error) {
        await rm(path, { force: true });
        throw error;
      }
    });
  }

  async get(key: string, options: GetOptions = {}): Promise<Buffer> {
    return this.#run('get', key, options, async () => {
      const handle = await this.#openObject(key);
      try {
        const info = toInfo(key, await handle.stat({ bigint: true }));
        if (options.ifMatch !== undefined && options.ifMatch !== info.etag) {
          throw new PenstockError('conflict', `${this.location(key)} has changed: its etag is ${info.etag}`);
        }
        const offset = options.offset ?? 0;
        const length = options.length ?? info.bytes - offset;
        if (length < 0 || offset + length > info.bytes) {
          throw new PenstockError(
            'corrupt',
            `${this.location(key)} has ${info.bytes} bytes, not the ${offset + Math.max(length, 0)} that were asked for`,
          );
        }
        const buffer = options.into ?? Buffer.allocUnsafeSlow(length);
        await readAll(handle, buffer, offset, this.location(key));
        return buffer;
      } finally {
        await handle.close();
      }
    });
  }

  async getFile(key: string, path: string, options: CallOptions = {}): Promise<ObjectInfo> {
    return this.#run('get', key, options, async () => {
      const handle = await this.#openObject(key);
      try {
        const info = toInfo(key, await handle.stat({ bigint: true }));
        await copyFile(join(this.#root, key), path, constants.COPYFILE_FICLONE);
        // The copy is made by name, so it may be of a newer object.
        if ((await this.#lookUp(key))?.etag !== info.etag) {
          throw new PenstockError('conflict', `${this.location(key)} changed while it was copied`);
        }
        return info;
      } finally {
        await handle.close();
      }
    });
  }

  async head(key: string, options: CallOptions = {}): Promise<ObjectInfo | null> {
    return this.#run('head', key, options, () => this.#lookUp(key));
  }

  async *list(prefix: string, options: CallOptions & { readonly after?: string } = {}): AsyncGenerator<ObjectInfo> {
    this.#assertOpen();
    if (prefix.split('/').includes('..') || prefix.startsWith('/') || prefix.includes('\0')) {
      throw new PenstockError('usage', `${JSON.stringify(prefix)} is not the prefix of a key`);
    }
    await this.#assertNoLink(prefix.includes('/') ? dirname(`${prefix}x`) : '', prefix);
    try {
      for await (const { key, stats } of walk(this.#root, prefix, options.after ?? '')) {
        throwIfAborted(options.signal, `list ${this.url}/${prefix}`);
        yield toInfo(key, stats);
      }
    } catch (error) {
      throw fromSystemError(error, `list ${this.url}/${prefix}`);
    }
  }

  async delete(keys: readonly string[], options: CallOptions = {}): Promise<void> {
    for (const key of keys) assertObjectKey(key);
    for (let at = 0; at < keys.length; at += DELETE_BATCH) {
      const batch = keys.slice(at, at + DELETE_BATCH);
      await Promise.all(batch.map((key) => this.#run('delete', key, options, () => this.#remove(key))));
    }
  }

  location(key: string): string {
    return `file://${this.#root}/${key}`;
  }

  keyOf(location: string): string | null {
    // Hadoop's own file system writes `file:/path`.
    const path = /^file:(?:\/\/)?(\/.*)$/s.exec(location)?.[1];
    return path?.startsWith(`${this.#root}/`) === true ? path.slice(this.#root.length + 1) : null;
  }

  localPath(key: string): string | null {
    assertObjectKey(key);
    return join(this.#root, key);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  async #run<T>(operation: string, key: string, options: CallOptions, work: () => Promise<T>): Promise<T> {
    this.#assertOpen();
    assertObjectKey(key);
    const what = `${operation} ${this.url}/${key}`;
    throwIfAborted(options.signal, what);
    try {
      return await work();
    } catch (error) {
      throw fromSystemError(error, what);
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new PenstockError('closed', `${this.url} is closed`);
  }

  /** Fills the upload through `fill`, makes it durable and gives it its name; nothing is left of it after an error. */
  async #finish(
    key: string,
    path: string,
    handle: FileHandle,
    options: PutOptions,
    fill: () => Promise<void>,
  ): Promise<ObjectInfo> {
    try {
      let stats: BigIntStats;
      try {
        await fill();
        const stamp = this.#nextStamp();
        await handle.utimes(stamp, stamp);
        await handle.sync();
        stats = await handle.stat({ bigint: true });
      } finally {
        await handle.close();
      }
      throwIfAborted(options.signal, `put ${this.url}/${key}`);
      await this.#name(key, path, options);
      return toInfo(key, stats);
    } finally {
      await rm(path, { force: true });
    }
  }

  /** Seconds with six digits, above every earlier one of this store. By the clock as it is now: `performance.timeOrigin` is what it was when the process was started. */
  #nextStamp(): number {
    this.#lastStampUs = Math.max(this.#lastStampUs + 1, Date.now() * 1000 + Math.floor((performance.now() % 1) * 1000));
    return this.#lastStampUs / 1e6;
  }

  async #name(key: string, path: string, options: PutOptions): Promise<void> {
    const folder = folderOf(key);
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#directories.make(folder);
        await this.#assertNoLink(folder, key);
        await this.#move(key, path, options);
        break;
      } catch (error) {
        if (systemCode(error) !== 'ENOENT' || attempt === FOLDER_RETRIES_MAX)
          throw this.#namingError(key, options, error);
      }
    }
    // The folder is gone again when somebody has deleted the object meanwhile: then nothing has to last.
    await this.#directories.sync(folder).catch(ignore('ENOENT'));
  }

  async #move(key: string, path: string, options: PutOptions): Promise<void> {
    const target = join(this.#root, key);
    if (options.ifAbsent === true) await link(path, target);
    else if (options.ifMatch === undefined) await rename(path, target);
    else await this.#swap(key, path, options.ifMatch);
  }

  #namingError(key: string, options: PutOptions, error: unknown): unknown {
    const code = systemCode(error);
    if (code === 'EEXIST' && options.ifAbsent === true) {
      return new PenstockError('exists', `${this.location(key)} exists`, { cause: error });
    }
    if (code === 'ENOTDIR' || code === 'EISDIR' || code === 'EEXIST') {
      const message = `${this.location(key)}: a key cannot be an object and also the folder of another object`;
      return new PenstockError('unsupported', message, { cause: error });
    }
    return error;
  }

  async #swap(key: string, path: string, etag: string): Promise<void> {
    await withSwapLock(this.#root, key, async () => {
      const current = await this.#lookUp(key);
      if (current?.etag !== etag) {
        throw new PenstockError(
          'conflict',
          `${this.location(key)}: its etag is ${current?.etag ?? 'none'}, not ${etag}`,
        );
      }
      await rename(path, join(this.#root, key));
    });
  }

  async #lookUp(key: string): Promise<ObjectInfo | null> {
    try {
      await this.#assertNoLink(folderOf(key), key);
      const stats = await lstat(join(this.#root, key), { bigint: true });
      return stats.isFile() ? toInfo(key, stats) : null;
    } catch (error) {
      if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return null;
      throw error;
    }
  }

  async #openObject(key: string): Promise<FileHandle> {
    try {
      await this.#assertNoLink(folderOf(key), key);
      const handle = await open(
        join(this.#root, key),
        constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      );
      if ((await handle.stat()).isFile()) return handle;
      await handle.close();
    } catch (error) {
      const code = systemCode(error);
      if (code === 'ELOOP') throw linkError(this.location(key));
      if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
    }
    throw new PenstockError('not-found', `${this.location(key)} does not exist`);
  }

  /** Throws `denied` when a folder on the way to `key` is a symbolic link. */
  async #assertNoLink(folder: string, key: string): Promise<void> {
    if (folder === '') return;
    const path = join(this.#root, folder);
    try {
      if ((await realpath(path)) !== path) throw linkError(this.location(key));
    } catch (error) {
      if (systemCode(error) !== 'ENOENT' && systemCode(error) !== 'ENOTDIR') throw error;
    }
  }

  async #remove(key: string): Promise<void> {
    if ((await this.#lookUp(key)) === null) return;
    await unlink(join(this.#root, key)).catch(ignore('ENOENT'));
    for (let folder = folderOf(key); folder !== ''; folder = folderOf(folder)) {
      try {
        await rmdir(join(this.#root, folder));
      } catch (error) {
        const code = systemCode(error);
        if (code === 'ENOTEMPTY' || code === 'EEXIST') return;
        if (code !== 'ENOENT') throw error;
      }
    }
  }
}

function linkError(location: string): PenstockError {
  return new PenstockError('denied', `${location}: symbolic links in an object store are not followed`);
}

function ignore(code: string): (error: unknown) => void {
  return (error) => {
    if (systemCode(error) !== code) throw error;
  };
}

function folderOf(key: string): string {
  return key.slice(0, Math.max(0, key.lastIndexOf('/')));
}

function toInfo(key: string, stats: BigIntStats): ObjectInfo {
  const etag = `${stats.ino.toString(36)}-${stats.size.toString(36)}-${stats.mtimeNs.toString(36)}`;
  return { key, bytes: Number(stats.size), modifiedMs: Number(stats.mtimeNs / 1_000_000n), etag };
}

async function readAll(handle: FileHandle, buffer: Buffer, offset: number, location: string): Promise<void> {
  for (let at = 0; at < buffer.length;) {
    const { bytesRead } = await handle.read(buffer, at, buffer.length - at, offset + at);
    if (bytesRead === 0)
      throw new PenstockError('corrupt', `${location} ended at ${offset + at} bytes while it was read`);
    at += bytesRead;
  }
}
