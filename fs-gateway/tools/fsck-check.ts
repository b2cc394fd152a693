/**
 * One walk of fsck over all records and objects of a volume. It first remembers every inode (fsck-table.ts), then follows the names, then
 * judges what was not reached, the counts and the objects. With a `Repair`, it repairs as it goes; counts are only judged in a walk that
 * repaired no names, so whoever sees repairs walks again.
 */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { describeError } from '../../lib/errors.ts';
import { decodeDentry, encodeDentry } from '../../lib/volume/dentry.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { extentEnd } from '../../lib/volume/extents.ts';
import { decodeInode, INODE_IMMUTABLE, INODE_INLINE, INODE_LISTING, INODE_PAGED } from '../../lib/volume/inode.ts';
import { isDirectory, isRegular, S_IFDIR, S_IFMT, S_IFREG } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { PAGE_BYTES, ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { loadLive, loadSegments } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import { allInodes, decodeExtentPage, scanBucket } from '../../lib/volume/references.ts';
import { FINDINGS } from './fsck-findings.ts';
import type { Finding, FindingKind } from './fsck-findings.ts';
import { ObjectNeeds } from './fsck-objects.ts';
import type { BadObject } from './fsck-objects.ts';
import { Paths, showName } from './fsck-paths.ts';
import type { Repair } from './fsck-repair.ts';
import { ABSENT, DAMAGED, DIRECTORY, FILE, InodeTable, LISTING } from './fsck-table.ts';
import { IdSet } from './id-set.ts';
import type { Progress } from './tool.ts';

/** Inodes of lake files are written shortly before the flip that names them. */
const FLIP_MS = 3600e3;
const FILES_SHOWN = 3;

export interface CheckOptions {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly keys: VolumeKeys;
  readonly volumeId: string;
  readonly repair: Repair | undefined;
  readonly nowMs: number;
  readonly progress: Progress;
}

export class Check {
  readonly #options: CheckOptions;
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #repair: Repair | undefined;
  readonly #table = new InodeTable();
  readonly #paths: Paths;
  readonly #objects: ObjectNeeds;
  readonly #orphans = new IdSet();
  /** What `..` of each directory says. */
  readonly #dotdot = new Map<number, number>();
  /** Files whose content is in the metadata, by bucket of inodes. */
  readonly #inline = new Map<string, number>();
  /** Buckets of contents with an inode that cannot say whether it has one there. */
  readonly #unsure = new Set<string>();
  readonly #findings: Finding[] = [];
  #inodes = 0;
  #bytes = 0n;
  #damaged = 0;
  #highestIno = 0;

  constructor(options: CheckOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#keys = options.keys;
    this.#repair = options.repair;
    this.#paths = new Paths(options.engine, options.keys, this.#table);
    this.#objects = new ObjectNeeds(options.store, options.volumeId);
  }

  counts(): { readonly inodes: number; readonly directories: number; readonly objects: number } {
    return { inodes: this.#inodes, directories: this.#dotdot.size, objects: this.#objects.objects };
  }

  async run(): Promise<readonly Finding[]> {
    const before = await this.#usage();
    await this.#walkInodes();
    // First: a repair may need a new inode.
    await this.#counter('ino', before[2] ?? 0n, this.#highestIno);
    await this.#walkContent();
    await this.#walkPages();
    await this.#walkEntries();
    for (const ino of this.#table.inos()) if (this.#table.kind(ino) === LISTING) await this.#listing(ino);
    for await (const [field] of scanBucket(this.#engine, this.#keys.orphans)) this.#orphans.add(Number(field));
    await this.#reachability();
    for (const ino of this.#table.inos()) await this.#unnamed(ino);
    if (this.#findings.some((finding) => finding.repaired)) return this.#findings;
    for (const ino of this.#table.inos()) await this.#linkCounts(ino);
    await this.#badObjects(await this.#objects.check(this.#options.progress));
    await this.#counters(before);
    return this.#findings;
  }

  /** `act` repairs, and returns false when it could not (any more). */
  async #find(kind: FindingKind, text: string, act?: (repair: Repair) => Promise<boolean>): Promise<void> {
    const repaired = this.#repair !== undefined && act !== undefined && (await act(this.#repair));
    this.#findings.push({ kind, text, ...FINDINGS[kind], repaired });
  }

  async #walkInodes(): Promise<void> {
    for await (const { ino, inode } of allInodes(this.#engine, this.#keys)) {
      if (this.#table.kind(ino) !== ABSENT) continue;
      this.#options.progress('inodes', ++this.#inodes);
      this.#highestIno = Math.max(this.#highestIno, ino);
      if (inode instanceof Error) {
        this.#damaged++;
        this.#unsure.add(this.#keys.inlineData(ino).bucket);
        this.#table.set(ino, DAMAGED);
        await this.#find('damaged-record', inode.message);
        continue;
      }
      const listing = (inode.flags & INODE_LISTING) !== 0;
      const kind = isDirectory(inode) ? (listing ? LISTING : DIRECTORY) : FILE;
      this.#table.set(ino, kind, (inode.mode & S_IFMT) >> 12, inode.nlink);
      if (isDirectory(inode)) this.#dotdot.set(ino, inode.parent);
      if (isRegular(inode)) await this.#file(ino, inode);
    }
  }

  async #file(ino: number, inode: Inode): Promise<void> {
    this.#bytes += BigInt(inode.size);
    if ((inode.flags & INODE_INLINE) !== 0) {
      const { bucket } = this.#keys.inlineData(ino);
      this.#inline.set(bucket, (this.#inline.get(bucket) ?? 0) + 1);
    }
    await this.#objects.need(ino, inode.extents);
    await this.#outside(ino, inode.extents, 0, inode.size);
  }

  async #outside(ino: number, extents: readonly Extent[], from: number, to: number): Promise<void> {
    for (const extent of extents) {
      if (extent.fileOffset >= from && extentEnd(extent) <= to) continue;
      const place = `bytes ${extent.fileOffset} to ${extentEnd(extent)}, allowed are ${from} to ${to}`;
      await this.#find('extent-outside', `inode ${ino}: an extent of ${place}`);
    }
  }

  /** Small files' content: the number of records per bucket tells whether one is missing, without reading them. */
  async #walkContent(): Promise<void> {
    const prefix = this.#keys.inlineData(0).bucket.slice(0, -1);
    const seen = new Set<string>();
    for await (const bucket of this.#engine.buckets(prefix)) {
      if (seen.has(bucket)) continue;
      seen.add(bucket);
      const expected = this.#inline.get(bucket) ?? 0;
      if (this.#unsure.has(bucket) || (await this.#engine.count(bucket)) !== expected)
        await this.#contentOf(bucket.slice(prefix.length));
    }
    for (const bucket of this.#inline.keys()) {
      if (!seen.has(bucket)) await this.#contentOf(bucket.slice(prefix.length));
    }
  }

  async #contentOf(number: string): Promise<void> {
    const first = Number(number) * 256;
    const inodes = await this.#engine.read(Array.from({ length: 256 }, (_, n) => this.#keys.inode(first + n)));
    const content = await this.#engine.read(Array.from({ length: 256 }, (_, n) => this.#keys.inlineData(first + n)));
    for (let n = 0; n < 256; n++) {
      const ino = first + n;
      const [inode, bytes] = [inodes[n] ?? null, content[n] ?? null];
      if (inode === null && bytes !== null) {
        await this.#lost(ino, `${bytes.value.length} bytes of content`, S_IFREG | 0o600, {
          flags: INODE_INLINE,
          size: bytes.value.length,
        });
      } else if (inode !== null && bytes === null && this.#table.kind(ino) === FILE) {
        const inline = (decodeInode(inode.value, ino).flags & INODE_INLINE) !== 0;
        if (inline) await this.#find('missing-content', `inode ${ino} has no content record`);
      }
    }
  }

  async #lost(ino: number, what: string, mode: number, fields: Partial<Inode>): Promise<void> {
    await this.#find('lost-inode', `inode ${ino} does not exist, ${what} of it do`, async (repair) => {
      await repair.revive(ino, mode, fields);
      return true;
    });
    // Names that lead to it are good ones.
    this.#table.set(ino, (mode & S_IFMT) === S_IFDIR ? DIRECTORY : FILE, (mode & S_IFMT) >> 12, 1);
    this.#inodes++;
    this.#bytes += BigInt(fields.size ?? 0);
  }

  async #walkPages(): Promise<void> {
    let pages = 0;
    for await (const bucket of this.#engine.buckets(this.#keys.pagesPrefix)) {
      const ino = Number(bucket.slice(this.#keys.pagesPrefix.length));
      const [stored] = await this.#engine.read([this.#keys.inode(ino)]);
      const known = stored !== null && stored !== undefined && this.#table.kind(ino) === FILE;
      const size = known ? decodeInode(stored.value, ino).size : Number.MAX_SAFE_INTEGER;
      let end = 0;
      for await (const [field, value] of scanBucket(this.#engine, bucket)) {
        this.#options.progress('extent pages', ++pages);
        try {
          const extents = decodeExtentPage(value, bucket, field);
          await this.#objects.need(ino, extents);
          const from = Number(field) * PAGE_BYTES;
          await this.#outside(ino, extents, from, Math.min(from + PAGE_BYTES, size));
          for (const extent of extents) end = Math.max(end, extentEnd(extent));
        } catch (error) {
          await this.#find('damaged-record', describeError(error));
        }
      }
      if (this.#table.kind(ino) === ABSENT) {
        await this.#lost(ino, 'extents', S_IFREG | 0o600, { flags: INODE_PAGED, size: end });
      }
    }
  }

  async #walkEntries(): Promise<void> {
    const prefix = this.#keys.entries(0).slice(0, -1);
    for await (const bucket of this.#engine.buckets(prefix)) {
      const directory = Number(bucket.slice(prefix.length));
      if (this.#table.kind(directory) !== ABSENT) continue;
      await this.#lost(directory, 'entries', S_IFDIR | 0o700, { parent: ROOT_INO });
    }
    let entries = 0;
    for await (const bucket of this.#engine.buckets(prefix)) {
      const directory = Number(bucket.slice(prefix.length));
      const seen = new Set<string>();
      for await (const [name, value] of scanBucket(this.#engine, bucket)) {
        // A scan may give an entry twice; the names of one directory are what a readdir keeps, too.
        if (seen.has(name)) continue;
        seen.add(name);
        this.#options.progress('names', ++entries);
        await this.#entry(directory, name, value);
      }
    }
  }

  async #entry(directory: number, name: string, value: Buffer): Promise<void> {
    const key = this.#keys.entry(directory, name);
    let entry: ReturnType<typeof decodeDentry>;
    try {
      entry = decodeDentry(value, directory, name);
    } catch {
      const text = `the entry ${await this.#paths.in(directory, name)}`;
      await this.#find('damaged-record', text, (repair) => repair.replace(key, value, null));
      return;
    }
    const { ino, type } = entry;
    const table = this.#table;
    if (table.kind(ino) === ABSENT) {
      const text = `${await this.#paths.in(directory, name)} names inode ${ino}, which does not exist`;
      await this.#find('dangling-entry', text, (repair) => repair.replace(key, value, null));
      return;
    }
    if (table.isDirectory(ino) && table.get(ino, 'names') > 0) {
      await this.#secondName(directory, name, value, ino);
      return;
    }
    table.increment(ino, 'names');
    if (table.parent(ino) === 0) table.setParent(ino, directory);
    if (table.isDirectory(ino)) table.increment(directory, 'subdirectories');
    if (table.kind(ino) === DAMAGED || table.type(ino) === type) return;
    const text = `${await this.#paths.in(directory, name)} says type ${type}, inode ${ino} is of type ${table.type(ino)}`;
    await this.#find('wrong-entry-type', text, (repair) =>
      repair.replace(key, value, encodeDentry(ino, table.type(ino))),
    );
  }

  /** Of two names of a directory the one that its `..` leads to stays. */
  async #secondName(directory: number, name: string, value: Buffer, ino: number): Promise<void> {
    const first = this.#table.parent(ino);
    const text = `${await this.#paths.in(directory, name)} is also ${await this.#paths.of(ino)}`;
    const keepFirst = first === directory || this.#dotdot.get(ino) !== directory;
    const firstName = await this.#paths.nameIn(first, ino);
    await this.#find('second-directory-name', text, async (repair) => {
      if (keepFirst) return repair.replace(this.#keys.entry(directory, name), value, null);
      if (firstName === undefined) return false;
      const key = this.#keys.entry(first, firstName);
      const [stored] = await this.#engine.read([key]);
      return stored !== null && stored !== undefined && repair.replace(key, stored.value, null);
    });
  }

  async #listing(directory: number): Promise<void> {
    const [stored] = await this.#engine.read([this.#keys.listingPointer(directory)]);
    if (stored === null || stored === undefined) return;
    try {
      const pointer = decodePointer(stored.value, directory);
      const live = await loadLive(this.#engine, this.#keys, directory, pointer);
      const segments = pointer.retiredSegments.map((s) => s.segment);
      const retired = await loadSegments(this.#engine, this.#keys, directory, segments);
      const entries = [...(live ?? []), ...(retired ?? []).flat(), ...pointer.retiredEntries];
      for (const ino of new Set(entries.map((entry) => entry.ino))) {
        if (this.#table.kind(ino) === ABSENT) continue;
        this.#table.increment(ino, 'names');
        if (this.#table.parent(ino) === 0) this.#table.setParent(ino, directory);
      }
      for (const { name, ino } of live ?? []) {
        if (this.#table.kind(ino) !== ABSENT) continue;
        const path = await this.#paths.in(directory, name);
        await this.#find('dangling-entry', `${path} (lake) names inode ${ino}, which does not exist`);
      }
    } catch (error) {
      await this.#find('damaged-record', `${await this.#paths.of(directory)}: ${describeError(error)}`);
    }
  }

  /** Every directory leads up to the root, or to one that has no name (which is a finding of its own). */
  async #reachability(): Promise<void> {
    const settled = new IdSet();
    settled.add(ROOT_INO);
    for (const [ino, dotdot] of this.#dotdot) {
      const parent = this.#table.parent(ino);
      if (parent !== 0 && parent !== dotdot && ino !== ROOT_INO) {
        const text = `${await this.#paths.of(ino)}: '..' is inode ${dotdot}, not ${parent}`;
        await this.#find('wrong-parent', text, (repair) => repair.edit(ino, (inode) => ({ ...inode, parent })));
      }
      const climbed = new Set<number>();
      let at = ino;
      while (at !== 0 && !settled.has(at) && !climbed.has(at)) {
        climbed.add(at);
        at = this.#table.parent(at);
      }
      if (climbed.has(at)) await this.#cycle(at);
      for (const number of climbed) settled.add(number);
    }
  }

  async #cycle(ino: number): Promise<void> {
    const parent = this.#table.parent(ino);
    const name = await this.#paths.nameIn(parent, ino);
    const text = `directory ${ino} ('${name === undefined ? '?' : showName(name)}' in directory ${parent}) contains itself`;
    await this.#find('directory-cycle', text, async (repair) => {
      if (name === undefined) return false;
      await repair.reconnect(ino, this.#keys.entry(parent, name));
      await repair.add(this.#keys.subdirectories(parent), -1n);
      return true;
    });
  }

  async #unnamed(ino: number): Promise<void> {
    const kind = this.#table.kind(ino);
    if (ino === ROOT_INO || kind === DAMAGED || this.#table.get(ino, 'names') > 0 || this.#orphans.has(ino)) return;
    const key = this.#keys.inode(ino);
    const [stored] = await this.#engine.read([key]);
    if (stored === null || stored === undefined) return;
    const inode = decodeInode(stored.value, ino);
    if ((inode.flags & INODE_IMMUTABLE) !== 0) {
      if (Number(inode.ctimeNs / 1_000_000n) > this.#options.nowMs - FLIP_MS) return;
      // Its object is the table's, so nothing is lost with the record; named in /lost+found it would outlive its object.
      await this.#find('unnamed-inode', `inode ${ino} is a lake file of a flip that never came`, (repair) =>
        repair.replace(key, stored.value, null),
      );
      return;
    }
    const what = kind === FILE ? `a file of ${inode.size} bytes` : 'a directory';
    await this.#find(
      'unnamed-inode',
      `inode ${ino}, ${what}, is now or will be /lost+found/#${ino}`,
      async (repair) => {
        await repair.reconnect(ino);
        return true;
      },
    );
  }

  async #linkCounts(ino: number): Promise<void> {
    const [kind, names] = [this.#table.kind(ino), this.#table.get(ino, 'names')];
    const nlink = this.#table.get(ino, 'nlink');
    if (kind === FILE && names > 0 && nlink !== names) {
      const text = `${await this.#paths.of(ino)} says ${nlink} names and has ${names}`;
      await this.#find('wrong-link-count', text, (repair) => repair.edit(ino, (inode) => ({ ...inode, nlink: names })));
    }
    if (kind !== DIRECTORY) return;
    const number = this.#keys.subdirectories(ino);
    const [said] = await this.#engine.readNumbers([number]);
    const counted = BigInt(this.#table.get(ino, 'subdirectories'));
    if ((said ?? 0n) === counted) return;
    const text = `${await this.#paths.of(ino)} says ${said ?? 0n} subdirectories and has ${counted}`;
    await this.#find('wrong-subdirectory-count', text, (repair) => repair.add(number, counted - (said ?? 0n)));
  }

  async #badObjects(bad: readonly BadObject[]): Promise<void> {
    const users = new Map<number, number[]>(bad.flatMap(({ id }) => (id === null ? [] : [[id, []]])));
    if (users.size > 0) await this.#findUsers(users);
    for (const { key, bytes, needed, id, ino } of bad) {
      const inos = id === null ? (ino === null ? [] : [ino]) : (users.get(id) ?? []);
      const paths = await Promise.all(inos.slice(0, FILES_SHOWN).map((number) => this.#paths.of(number)));
      const more = inos.length > FILES_SHOWN ? ` and ${inos.length - FILES_SHOWN} more` : '';
      const where = `${paths.join(', ')}${more}: object ${key}`;
      if (bytes === null) await this.#find('missing-object', `${where} is missing (${needed} bytes)`);
      else await this.#find('short-object', `${where} has ${bytes} bytes, ${needed} are needed`);
    }
  }

  async #findUsers(users: ReadonlyMap<number, number[]>): Promise<void> {
    const note = (ino: number, extents: readonly Extent[]): void => {
      for (const { source } of extents) {
        const inos = source.kind === 'own' ? users.get(source.objectId) : undefined;
        if (inos !== undefined && !inos.includes(ino)) inos.push(ino);
      }
    };
    for await (const { ino, inode } of allInodes(this.#engine, this.#keys)) {
      if (!(inode instanceof Error)) note(ino, inode.extents);
    }
    for await (const bucket of this.#engine.buckets(this.#keys.pagesPrefix)) {
      const ino = Number(bucket.slice(this.#keys.pagesPrefix.length));
      for await (const [field, value] of scanBucket(this.#engine, bucket)) {
        try {
          note(ino, decodeExtentPage(value, bucket, field));
        } catch {
          // Reported by the first walk.
        }
      }
    }
  }

  #usage(): Promise<readonly (bigint | null)[]> {
    return this.#engine.readNumbers((['inodes', 'bytes', 'ino', 'object'] as const).map((n) => this.#keys.counter(n)));
  }

  async #counters(before: readonly (bigint | null)[]): Promise<void> {
    const [inodes, bytes, , lastObject] = await this.#usage();
    const quiet = before[0] === inodes && before[1] === bytes;
    const usage = [
      { name: 'inodes', said: inodes ?? 0n, counted: BigInt(this.#inodes), known: quiet },
      // The size in a damaged record is not known.
      { name: 'bytes', said: bytes ?? 0n, counted: this.#bytes, known: quiet && this.#damaged === 0 },
    ] as const;
    for (const { name, said, counted, known } of usage) {
      if (!known || said === counted) continue;
      const number = this.#keys.counter(name);
      await this.#find('wrong-usage', `${said} ${name} are counted, there are ${counted}`, (repair) =>
        repair.add(number, counted - said),
      );
    }
    await this.#counter('object', lastObject ?? 0n, this.#objects.highestId);
  }

  async #counter(name: 'ino' | 'object', last: bigint, highest: number): Promise<void> {
    if (last >= highest) return;
    // What came after the walk's beginning has raised it.
    const [now] = await this.#engine.readNumbers([this.#keys.counter(name)]);
    if ((now ?? 0n) >= highest) return;
    await this.#find('low-counter', `the counter '${name}' is at ${last}, ${highest} is in use`, (repair) =>
      repair.raise(this.#keys.counter(name), BigInt(highest)),
    );
  }
}
