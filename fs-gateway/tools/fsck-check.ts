/**
 * One walk of fsck over all records and objects of a volume. It first remembers every inode (fsck-table.ts), then follows the names, then
 * judges what was not reached, the counts and the objects. With a `Repair`, it repairs as it goes; counts are only judged in a walk that
 * repaired no names, so whoever sees repairs walks again.
 */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { describeError } from '../../lib/errors.ts';
import { decodeDentry, dentryType, encodeDentry } from '../../lib/volume/dentry.ts';
import { decodeInode, INODE_IMMUTABLE, INODE_LISTING } from '../../lib/volume/inode.ts';
import { isDirectory, isRegular, S_IFDIR, S_IFMT } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { loadLive, loadSegments } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import { allInodes, scanBucket } from '../../lib/volume/references.ts';
import { ContentCheck } from './fsck-content.ts';
import type { Lost } from './fsck-content.ts';
import { Findings } from './fsck-findings.ts';
import type { Finding } from './fsck-findings.ts';
import { ObjectNeeds } from './fsck-objects.ts';
import { Paths, showName } from './fsck-paths.ts';
import type { Repair } from './fsck-repair.ts';
import { ABSENT, DAMAGED, DIRECTORY, FILE, InodeTable, LISTING } from './fsck-table.ts';
import { UsageCheck } from './fsck-usage.ts';
import { reportBadObjects } from './fsck-users.ts';
import { IdSet } from './id-set.ts';
import type { Progress } from './tool.ts';

/** Inodes of lake files are written shortly before the flip that names them. */
const FLIP_MS = 3600e3;

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
  readonly #table = new InodeTable();
  readonly #paths: Paths;
  readonly #objects: ObjectNeeds;
  /** Nothing leads to these, and that is as it should be. */
  readonly #orphans = new IdSet();
  /** What `..` of each directory says. */
  readonly #dotdot = new Map<number, number>();
  readonly #findings: Findings;
  readonly #content: ContentCheck;
  readonly #usage: UsageCheck;
  #inodes = 0;

  constructor(options: CheckOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#keys = options.keys;
    this.#findings = new Findings(options.repair);
    this.#paths = new Paths(options.engine, options.keys, this.#table);
    this.#objects = new ObjectNeeds(options.store, options.volumeId);
    const { engine, keys, progress } = options;
    const parts = { engine, keys, table: this.#table, paths: this.#paths, findings: this.#findings };
    this.#usage = new UsageCheck(parts);
    const lost: Lost = (ino, what, mode, fields) => this.#lost(ino, what, mode, fields);
    this.#content = new ContentCheck({ ...parts, objects: this.#objects, lost, progress });
  }

  counts(): { readonly inodes: number; readonly directories: number; readonly objects: number } {
    return { inodes: this.#inodes, directories: this.#dotdot.size, objects: this.#objects.objects };
  }

  async run(): Promise<readonly Finding[]> {
    await this.#usage.begin();
    await this.#walkInodes();
    await this.#usage.checkLastIno();
    await this.#content.walkInline();
    await this.#content.walkPages();
    await this.#walkEntries();
    for (const ino of this.#table.inos()) if (this.#table.kind(ino) === LISTING) await this.#listing(ino);
    for await (const [field] of scanBucket(this.#engine, this.#keys.orphans)) this.#orphans.add(Number(field));
    for await (const [field] of scanBucket(this.#engine, this.#keys.buildings)) {
      this.#orphans.add(Number(field));
      this.#usage.noteBuilding(Number(field));
    }
    await this.#reachability();
    for (const ino of this.#table.inos()) await this.#unnamed(ino);
    await this.#usage.checkPlaces();
    const { list } = this.#findings;
    if (list.some((finding) => finding.repaired)) return list;
    for (const ino of this.#table.inos()) await this.#linkCounts(ino);
    const bad = await this.#objects.check(this.#options.progress);
    await reportBadObjects(bad, { ...this.#options, paths: this.#paths, findings: this.#findings });
    await this.#usage.checkCounters(this.#objects.highestId);
    return list;
  }

  async #walkInodes(): Promise<void> {
    for await (const { ino, inode } of allInodes(this.#engine, this.#keys)) {
      if (this.#table.kind(ino) !== ABSENT) continue;
      this.#options.progress('inodes', ++this.#inodes);
      if (inode instanceof Error) {
        this.#usage.noteDamaged(ino);
        this.#content.noteDamaged(ino);
        this.#table.set(ino, DAMAGED);
        await this.#findings.add('damaged-record', inode.message);
        continue;
      }
      const listing = (inode.flags & INODE_LISTING) !== 0;
      const kind = isDirectory(inode) ? (listing ? LISTING : DIRECTORY) : FILE;
      this.#table.set(ino, kind, dentryType(inode.mode), inode.nlink);
      if (isDirectory(inode)) this.#dotdot.set(ino, inode.parent);
      this.#usage.note(ino, inode);
      if (isRegular(inode)) await this.#content.note(ino, inode);
    }
  }

  async #lost(ino: number, what: string, mode: number, fields: Partial<Inode>): Promise<void> {
    await this.#findings.add('lost-inode', `inode ${ino} does not exist, ${what} of it do`, async (repair) => {
      await repair.revive(ino, mode, fields);
      return true;
    });
    // Names that lead to it are good ones.
    this.#table.set(ino, (mode & S_IFMT) === S_IFDIR ? DIRECTORY : FILE, dentryType(mode), 1);
    this.#inodes++;
    this.#usage.noteLost(fields.size ?? 0);
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
      await this.#findings.add('damaged-record', text, (repair) => repair.replace(key, value, null));
      return;
    }
    const { ino, type } = entry;
    const table = this.#table;
    if (table.kind(ino) === ABSENT) {
      const text = `${await this.#paths.in(directory, name)} names inode ${ino}, which does not exist`;
      await this.#findings.add('dangling-entry', text, (repair) => repair.replace(key, value, null));
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
    await this.#findings.add('wrong-entry-type', text, (repair) =>
      repair.replace(key, value, encodeDentry(ino, table.type(ino))),
    );
  }

  /** Of two names of a directory the one that its `..` leads to stays. */
  async #secondName(directory: number, name: string, value: Buffer, ino: number): Promise<void> {
    const first = this.#table.parent(ino);
    const text = `${await this.#paths.in(directory, name)} is also ${await this.#paths.of(ino)}`;
    const keepFirst = first === directory || this.#dotdot.get(ino) !== directory;
    const firstName = await this.#paths.nameIn(first, ino);
    await this.#findings.add('second-directory-name', text, async (repair) => {
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
        await this.#findings.add('dangling-entry', `${path} (lake) names inode ${ino}, which does not exist`);
      }
    } catch (error) {
      await this.#findings.add('damaged-record', `${await this.#paths.of(directory)}: ${describeError(error)}`);
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
        await this.#findings.add('wrong-parent', text, (repair) => repair.edit(ino, (inode) => ({ ...inode, parent })));
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
    await this.#findings.add('directory-cycle', text, async (repair) => {
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
      await this.#findings.add('unnamed-inode', `inode ${ino} is a lake file of a flip that never came`, (repair) =>
        repair.replace(key, stored.value, null),
      );
      return;
    }
    const what = kind === FILE ? `a file of ${inode.size} bytes` : 'a directory';
    await this.#findings.add(
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
      await this.#findings.add('wrong-link-count', text, (repair) =>
        repair.edit(ino, (inode) => ({ ...inode, nlink: names })),
      );
    }
    if (kind !== DIRECTORY) return;
    const number = this.#keys.subdirectories(ino);
    const [said] = await this.#engine.readNumbers([number]);
    const counted = BigInt(this.#table.get(ino, 'subdirectories'));
    if ((said ?? 0n) === counted) return;
    const text = `${await this.#paths.of(ino)} says ${said ?? 0n} subdirectories and has ${counted}`;
    await this.#findings.add('wrong-subdirectory-count', text, (repair) => repair.add(number, counted - (said ?? 0n)));
  }
}
