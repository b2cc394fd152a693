/**
 * The records of whole files (whole-files.ts), which lie beside the bytes of each, `<dir>/<2 hex>/<ino>`:
 *
 *   <ino>.ok                of a *complete* file: what it is the copy of (whole-record.ts)
 *   <ino>.base              instead: of a *live* file, as of the last flush
 *   <ino>.next.<id>.<file>  beside it, while a flush is being committed under this id: as of that flush, of the backing file with this local inode and time of birth
 *   <ino>.kept              beside it: one that survives a power cut, of a live file whose bytes were promised (`-o writeback`)
 *   <ino>.tmp…              one that is being written
 *
 * Invariants: a record is there whole or not at all, and takes the place of the one before in one step. What a live file is compared with is of this boot, or kept.
 * Failure: only what was kept is synced. One that cannot be read is reported, and counts as absent; a folder that somebody has removed is made anew.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { open, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describeError, systemCode } from '../../lib/errors.ts';
import { decodeWhole, encodeWhole } from './whole-record.ts';
import type { WholeRecord } from './whole-record.ts';

const FOLDERS = 256;

export interface WholeRecordsOptions {
  readonly dir: string;
  readonly bootId: string;
  report(message: string): void;
}

/** The record of a live file as of a flush that is committed under this id. */
export interface NextBase {
  readonly id: bigint;
  readonly record: WholeRecord;
}

export class WholeRecords {
  readonly #options: WholeRecordsOptions;
  /** The next bases that there are. */
  readonly #nexts = new Map<number, { readonly id: bigint; readonly path: string }>();
  #keeps = 0;

  constructor(options: WholeRecordsOptions) {
    this.#options = options;
  }

  /** Where the file belongs: the names of its records begin with it. */
  place(ino: number): string {
    return join(this.#options.dir, (ino % FOLDERS).toString(16).padStart(2, '0'), String(ino));
  }

  /** Of a complete file; null where there is none that can be read. */
  complete(ino: number): WholeRecord | null {
    return this.#read(`${this.place(ino)}.ok`);
  }

  saveComplete(ino: number, record: WholeRecord): void {
    this.#write(`${this.place(ino)}.ok`, ino, record);
  }

  dropComplete(ino: number): void {
    rmSync(`${this.place(ino)}.ok`, { force: true });
  }

  /** What a live file is compared with: as of this boot, or else as it was kept. */
  base(ino: number): WholeRecord | null {
    const base = this.#read(`${this.place(ino)}.base`);
    return base?.bootId === this.#options.bootId ? base : this.#read(`${this.place(ino)}.kept`);
  }

  /** One of this boot or an earlier one, which may be damaged. */
  hasBase(ino: number): boolean {
    return existsSync(`${this.place(ino)}.base`);
  }

  /** The live file as of a flush that was committed. */
  saveBase(ino: number, record: WholeRecord): void {
    this.#write(`${this.place(ino)}.base`, ino, { ...record, bootId: this.#options.bootId });
  }

  /** A complete file becomes a live one: what it is the copy of is what it is compared with. Throws Node's errors. */
  enliven(ino: number): void {
    renameSync(`${this.place(ino)}.ok`, `${this.place(ino)}.base`);
  }

  /** A live file is complete again, as `record` says. */
  calm(ino: number, record: WholeRecord): void {
    this.dropNext(ino);
    this.saveBase(ino, record);
    // All of it is committed: a power cut from here on loses nothing with it.
    rmSync(`${this.place(ino)}.kept`, { force: true });
    renameSync(`${this.place(ino)}.base`, `${this.place(ino)}.ok`);
  }

  drop(ino: number): void {
    for (const suffix of ['.ok', '.base', '.kept']) rmSync(`${this.place(ino)}${suffix}`, { force: true });
    this.dropNext(ino);
  }

  #read(path: string): WholeRecord | null {
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch {
      return null;
    }
    try {
      return decodeWhole(bytes, path);
    } catch (error) {
      this.#options.report(describeError(error));
      return null;
    }
  }

  #write(path: string, ino: number, record: WholeRecord): void {
    const temporary = `${this.place(ino)}.tmp`;
    const write = (): void => {
      writeFileSync(temporary, encodeWhole(record), { mode: 0o600 });
      renameSync(temporary, path);
    };
    try {
      write();
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
      // Somebody has removed the folder.
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      write();
    }
  }

  /** What a worker before this one left at this path. False: it is of a former backing file, and says nothing of this one. */
  adoptNext(ino: number, path: string, backingFile: BigIntStats): boolean {
    const id = BigInt(/\.next\.(\d+)\./.exec(path)?.[1] ?? 0);
    if (path !== this.#nextPath(ino, id, backingFile)) return false;
    this.#nexts.set(ino, { id, path });
    return true;
  }

  /** Before that commit. Throws Node's errors; then there is none. */
  saveNext(ino: number, { id, record }: NextBase, backingFile: BigIntStats): void {
    const path = this.#nextPath(ino, id, backingFile);
    this.dropNext(ino);
    this.#write(path, ino, { ...record, bootId: this.#options.bootId });
    this.#nexts.set(ino, { id, path });
  }

  /** That commit is made: `record`, which need not have been saved before, is the base. */
  takeNext(ino: number, record: WholeRecord): void {
    const next = this.#nexts.get(ino);
    this.#nexts.delete(ino);
    if (next === undefined || !this.#take(next.path, `${this.place(ino)}.base`)) this.saveBase(ino, record);
  }

  /** False: somebody has removed it. */
  #take(path: string, to: string): boolean {
    try {
      renameSync(path, to);
      return true;
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
      return false;
    }
  }

  /** Of a flush that the worker before this one did not live to hear of. */
  next(ino: number): NextBase | undefined {
    const next = this.#nexts.get(ino);
    if (next === undefined) return undefined;
    const record = this.#read(next.path);
    if (record?.bootId === this.#options.bootId) return { id: next.id, record };
    this.dropNext(ino);
    return undefined;
  }

  /** It was not committed. */
  dropNext(ino: number): void {
    const next = this.#nexts.get(ino);
    if (next === undefined) return;
    this.#nexts.delete(ino);
    rmSync(next.path, { force: true });
  }

  #nextPath(ino: number, id: bigint, { ino: file, birthtimeNs }: BigIntStats): string {
    return `${this.place(ino)}.next.${id}.${file}-${birthtimeNs}`;
  }

  isKept(ino: number): boolean {
    return existsSync(`${this.place(ino)}.kept`);
  }

  /** A base of bytes that are synced: it survives a power cut when this resolves, unless the file is not live any more (`isWanted`). */
  async keep(ino: number, record: WholeRecord, isWanted: () => boolean): Promise<void> {
    // The file may become live anew while the record of its last life is being written.
    const temporary = `${this.place(ino)}.tmp.${this.#keeps++}`;
    try {
      await writeFile(temporary, encodeWhole(record), { mode: 0o600, flush: true });
      if (!isWanted()) return;
      renameSync(temporary, `${this.place(ino)}.kept`);
    } finally {
      rmSync(temporary, { force: true });
    }
    const folder = await open(dirname(temporary), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }
}
