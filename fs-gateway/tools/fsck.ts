/**
 * Checks a volume: every record can be read, every name leads to an inode, every inode has as many names as it says, every object that
 * an extent refers to is in the store and long enough. With `repair`, what can be made right without a guess is made right; each finding
 * says what it is and what was or could be done. Run it on a volume that nobody changes: a change under way can look like a flaw.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Write } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { decodeDentry } from '../../lib/volume/dentry.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { encodeInode, INODE_LISTING, isDirectory } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { ROOT_INO, VolumeKeys } from '../../lib/volume/keys.ts';
import { loadLive, loadSegments } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import { allInodes, decodeExtentPage, scanBucket } from '../../lib/volume/references.ts';
import { objectKey } from '../data/pieces.ts';

export type FindingKind =
  | 'damaged-record'
  | 'dangling-entry'
  | 'wrong-link-count'
  | 'unnamed-inode'
  | 'wrong-subdirectory-count'
  | 'missing-object'
  | 'short-object';

export interface Finding {
  readonly kind: FindingKind;
  /** What and where, for people. */
  readonly text: string;
  readonly repaired: boolean;
}

export interface FsckReport {
  readonly inodes: number;
  readonly directories: number;
  readonly objects: number;
  readonly findings: readonly Finding[];
}

export interface FsckOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly repair: boolean;
}

export async function checkVolume(options: FsckOptions): Promise<FsckReport> {
  const format = await readFormat(options.engine, options.volume);
  if (format === null) throw new PenstockError('not-found', `volume '${options.volume}' is not formatted`);
  return new Check(options, format.id).run();
}

class Check {
  readonly #options: FsckOptions;
  readonly #volumeId: string;
  readonly #keys: VolumeKeys;
  readonly #inodes = new Map<number, Inode>();
  /** Names found per inode, and subdirectories per directory. */
  readonly #names = new Map<number, number>();
  readonly #subdirectories = new Map<number, number>();
  /** Bytes that extents need of each object. */
  readonly #objects = new Map<string, number>();
  readonly #findings: Finding[] = [];

  constructor(options: FsckOptions, volumeId: string) {
    this.#options = options;
    this.#volumeId = volumeId;
    this.#keys = new VolumeKeys(options.volume);
  }

  async run(): Promise<FsckReport> {
    const { engine } = this.#options;
    let directories = 0;
    for await (const { ino, inode } of allInodes(engine, this.#keys)) {
      if (inode instanceof Error) this.#find('damaged-record', `${inode.message}; what it held cannot be known`, false);
      else {
        this.#inodes.set(ino, inode);
        this.#need(inode.extents);
      }
    }
    for await (const bucket of engine.buckets(this.#keys.pagesPrefix)) {
      for await (const [field, value] of scanBucket(engine, bucket)) {
        try {
          this.#need(decodeExtentPage(value, bucket, field));
        } catch (error) {
          this.#find('damaged-record', String(error), false);
        }
      }
    }
    for (const [ino, inode] of this.#inodes) {
      if (!isDirectory(inode)) continue;
      directories++;
      if ((inode.flags & INODE_LISTING) !== 0) await this.#listing(ino);
      else await this.#directory(ino);
    }
    await this.#counts();
    await this.#store();
    return { inodes: this.#inodes.size, directories, objects: this.#objects.size, findings: this.#findings };
  }

  #find(kind: FindingKind, text: string, repaired: boolean): void {
    this.#findings.push({ kind, text, repaired });
  }

  #need(extents: readonly Extent[]): void {
    for (const { source } of extents) {
      const key = source.kind === 'own' ? objectKey(this.#volumeId, source.objectId) : source.key;
      const bytes = source.kind === 'own' ? source.pieceOffset + source.pieceBytes : source.objectBytes;
      this.#objects.set(key, Math.max(bytes, this.#objects.get(key) ?? 0));
    }
  }

  #named(ino: number): void {
    this.#names.set(ino, (this.#names.get(ino) ?? 0) + 1);
  }

  async #repair(write: readonly Write[]): Promise<boolean> {
    if (!this.#options.repair) return false;
    await this.#options.engine.commit({ write });
    return true;
  }

  async #directory(directory: number): Promise<void> {
    for await (const [name, value] of scanBucket(this.#options.engine, this.#keys.entries(directory))) {
      const key = this.#keys.entry(directory, name);
      let ino: number;
      try {
        ino = decodeDentry(value, directory, name).ino;
      } catch (error) {
        this.#find(
          'damaged-record',
          `${String(error)}: the name can only be removed`,
          await this.#repair([{ key, value: null }]),
        );
        continue;
      }
      const inode = this.#inodes.get(ino);
      if (inode === undefined) {
        const text = `'${name}' in directory ${directory} names inode ${ino}, which does not exist: the name can only be removed`;
        this.#find('dangling-entry', text, await this.#repair([{ key, value: null }]));
        continue;
      }
      this.#named(ino);
      if (isDirectory(inode)) this.#subdirectories.set(directory, (this.#subdirectories.get(directory) ?? 0) + 1);
    }
  }

  async #listing(directory: number): Promise<void> {
    const { engine } = this.#options;
    const [stored] = await engine.read([this.#keys.listingPointer(directory)]);
    if (stored === null || stored === undefined) return;
    try {
      const pointer = decodePointer(stored.value, directory);
      const live = await loadLive(engine, this.#keys, directory, pointer);
      const retired = await loadSegments(
        engine,
        this.#keys,
        directory,
        pointer.retiredSegments.map((s) => s.segment),
      );
      const inos = new Set([...(live ?? []), ...(retired ?? []).flat(), ...pointer.retiredEntries].map((e) => e.ino));
      for (const ino of inos) this.#named(ino);
      for (const { name, ino } of live ?? []) {
        if (this.#inodes.has(ino)) continue;
        const text = `'${name}' in lake directory ${directory} names inode ${ino}, which does not exist: the next flip of its hour writes it anew`;
        this.#find('dangling-entry', text, false);
      }
    } catch (error) {
      this.#find('damaged-record', `${String(error)}: the table's files are listed again by the next flip`, false);
    }
  }

  async #counts(): Promise<void> {
    const { engine } = this.#options;
    const orphans = new Set<number>();
    for await (const [field] of scanBucket(engine, this.#keys.orphans)) orphans.add(Number(field));
    for (const [ino, inode] of this.#inodes) {
      const names = this.#names.get(ino) ?? 0;
      const key = this.#keys.inode(ino);
      if (ino !== ROOT_INO && names === 0 && !orphans.has(ino)) {
        const orphan = { key: this.#keys.orphan(ino), value: Buffer.from('fsck') };
        const unlinked = { key, value: encodeInode({ ...inode, nlink: 0 }) };
        const text = `inode ${ino} (${inode.size} bytes) has no name: it becomes an orphan, which gc removes`;
        this.#find('unnamed-inode', text, await this.#repair([orphan, unlinked]));
      } else if (!isDirectory(inode) && names > 0 && inode.nlink !== names) {
        const text = `inode ${ino} says ${inode.nlink} names and has ${names}`;
        this.#find(
          'wrong-link-count',
          text,
          await this.#repair([{ key, value: encodeInode({ ...inode, nlink: names }) }]),
        );
      }
      if (isDirectory(inode) && (inode.flags & INODE_LISTING) === 0) await this.#subdirectoryCount(ino);
    }
  }

  async #subdirectoryCount(directory: number): Promise<void> {
    const number = this.#keys.subdirectories(directory);
    const [stored] = await this.#options.engine.readNumbers([number]);
    const counted = BigInt(this.#subdirectories.get(directory) ?? 0);
    const said = stored ?? 0n;
    if (said === counted) return;
    if (this.#options.repair) await this.#options.engine.commit({ patch: [{ number, add: counted - said }] });
    const text = `directory ${directory} says ${said} subdirectories and has ${counted}`;
    this.#find('wrong-subdirectory-count', text, this.#options.repair);
  }

  async #store(): Promise<void> {
    for (const [key, bytes] of this.#objects) {
      const info = await this.#options.store.head(key);
      if (info === null) this.#find('missing-object', `object ${key} is missing: reads of it fail with EIO`, false);
      else if (info.bytes < bytes) {
        this.#find(
          'short-object',
          `object ${key} has ${info.bytes} bytes, its extents need ${bytes}: reads behind fail with EIO`,
          false,
        );
      }
    }
  }
}
