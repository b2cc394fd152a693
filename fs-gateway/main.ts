/** What the command line and the demo do with volumes: format, mount, unmount, and ask. */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { extname, join, resolve } from 'node:path';
import { expandEnvironment } from '../lib/config/environment.ts';
import { fromSystemError, PenstockError } from '../lib/errors.ts';
import { absoluteUrl, openMeta } from '../lib/registry.ts';
import type { StoreCredentials } from '../lib/store/store.ts';
import { parseBytes, parseDuration } from '../lib/units.ts';
import { parsePortUrl, pathOfUrl, shownInError } from '../lib/urls.ts';
import type { MetaEngine } from '../lib/meta/engine.ts';
import { FORMAT_DEFAULTS, formattedVolumes, readFormat, writeFormat } from '../lib/volume/format.ts';
import type { VolumeFormat } from '../lib/volume/format.ts';
import { assertVolumeName } from '../lib/volume/keys.ts';
import type { Usage } from './callers/usage.ts';
import { controlRequest } from './fuse/control.ts';
import { mountAndSupervise, umount } from './fuse/lifecycle.ts';
import type { SupervisedMount, UmountOptions, UmountReport } from './fuse/lifecycle.ts';
import { findMount } from './fuse/mount.ts';
import type { MountStats } from './fuse/mount-stats.ts';
import { passthroughProblem } from './fuse/passthrough-support.ts';
import { refuseOwnParts } from './mount-place.ts';
import { assertListen, DEFAULT_LISTEN } from './peers/address.ts';
import { tryReading, tryWriting } from './try-store.ts';
import type { PassthroughMode } from './vfs/passthrough.ts';

export { mountability } from './fuse/mount.ts';
export { parseMountOptions } from './mount-options.ts';

const DEFAULT_VOLUME = 'lake';
const VOLUMES_SHOWN = 20;
/** A tenth of a small node's disk; the free-space reserve holds it back where the disk is smaller. */
const DEFAULT_CACHE_BYTES = 10e9;
const DEFAULT_PASSTHROUGH: PassthroughMode = 'off';

export interface FormatRequest {
  readonly metaUrl: string;
  readonly storeUrl: string;
  /** Instead of `?volume=` in the URL. */
  readonly name?: string;
  /** `blockSize=8MiB`, `inlineBytes`, `trash`, `grace`, `durability`, `compression`. */
  readonly options?: Readonly<Record<string, string>>;
}

/** Throws `exists` when the volume has a format, `config` for an option it does not know, and what the store says when nothing can be written to it. */
export async function formatVolume(request: FormatRequest): Promise<VolumeFormat> {
  const { url, volume } = splitMetaUrl(request.metaUrl, request.name);
  const options = parseOptions(request.options ?? {});
  const storeUrl = storeOf(request);
  const id = randomUUID();
  await tryWriting(storeUrl, id);
  const engine = await openMeta(url, { kind: 'format' });
  try {
    return await writeFormat(engine, {
      id,
      volume,
      store: storeUrl,
      createdMs: Date.now(),
      ...FORMAT_DEFAULTS,
      ...options,
    });
  } finally {
    await engine.close();
  }
}

/** Formats the volume unless it is formatted; one with another store is `config`. */
export async function ensureVolume(request: FormatRequest): Promise<VolumeFormat> {
  const { url, volume } = splitMetaUrl(request.metaUrl, request.name);
  const engine = await openMeta(url, { kind: 'format' });
  const found = await readFormat(engine, volume).finally(() => engine.close());
  if (found === null) return formatVolume(request);
  const wanted = storeOf(request);
  if (found.store === wanted) return found;
  throw new PenstockError('config', `volume '${volume}' has its objects in ${found.store}, not in ${wanted}`);
}

function storeOf({ storeUrl }: FormatRequest): string {
  return absoluteUrl(expandEnvironment(storeUrl), process.cwd());
}

/** The options of a format as people write them. Throws `config` for one that there is not. */
export function parseOptions(options: Readonly<Record<string, string>>): Partial<VolumeFormat> {
  const parsers: Readonly<Record<string, (text: string) => Partial<VolumeFormat>>> = {
    blockSize: (text) => ({ blockSize: parseBytes(text) }),
    inlineBytes: (text) => ({ inlineBytes: parseBytes(text) }),
    trash: (text) => ({ trashMs: parseDuration(text) }),
    grace: (text) => ({ graceMs: parseDuration(text) }),
    backup: (text) => ({ backupMs: parseDuration(text) }),
    backupKeep: (text) => ({ backupKeepMs: parseDuration(text) }),
    gc: (text) => ({ gcMs: parseDuration(text) }),
    durability: (text) => ({ durability: oneOf('durability', text, ['commit', 'flush']) }),
    compression: (text) => ({ compression: oneOf('compression', text, ['none', 'zstd']) }),
  };
  return Object.assign(
    {},
    ...Object.entries(options).map(([key, text]) => {
      const parse = parsers[key];
      if (parse === undefined) {
        throw new PenstockError('config', `no option '${key}': expected one of ${Object.keys(parsers).join(', ')}`);
      }
      return parse(text);
    }),
  ) as Partial<VolumeFormat>; // Object.assign over an array of parts gives any.
}

function oneOf<T extends string>(key: string, text: string, allowed: readonly T[]): T {
  const found = allowed.find((value) => value === text);
  if (found !== undefined) return found;
  throw new PenstockError('config', `${key}=${text}: expected ${allowed.join(' or ')}`);
}

export interface VolumeMountRequest {
  readonly metaUrl: string;
  readonly mountpoint: string;
  readonly name?: string;
  /** The folder (tools/volume-folders.ts) that it is mounted for: in the mount's name and its session. All of the volume is mounted. */
  readonly folder?: string;
  readonly cacheDir?: string;
  readonly cacheBytes?: number;
  readonly readOnly?: boolean;
  readonly accessLogPath?: string;
  /** Which files the kernel reads (and writes) by itself: default DEFAULT_PASSTHROUGH. */
  readonly passthrough?: PassthroughMode;
  /** close and fsync return when the local disk has the bytes; they are committed behind. */
  readonly writeback?: boolean;
  /** An open believes what the change feed has told, instead of asking the metadata engine. */
  readonly openCache?: boolean;
  /** Mounts of the volume with the same name here serve each other blocks, so that the store gives each one once. */
  readonly cacheGroup?: string;
  /** Where this mount listens for them, HOST:PORT; default: the loopback, which mounts of the same machine reach. */
  readonly peerListen?: string;
  /** Supervise in a process of its own. */
  readonly background?: boolean;
  /** In the foreground: end at SIGTERM and SIGINT (default true). */
  readonly signals?: boolean;
  /** Where a background mount writes its messages. */
  readonly logPath?: string;
  /** Of the object store; without them, those of the environment. They reach the worker over a pipe, and no command line or log. */
  readonly credentials?: StoreCredentials;
  /** The socket of a keeper (fuse/keeper.ts), which has the device too. */
  readonly keeper?: string;
  /** The caller has asked the store itself, and has statuses of its own for what it says. */
  readonly storeAsked?: boolean;
  /** Ends a mount in the background that is not ready yet. */
  readonly signal?: AbortSignal;
}

export interface VolumeMount extends SupervisedMount {
  /** Why the daemon serves the data although passthrough was asked for. */
  readonly passthroughProblem: string | undefined;
  /** Why the object store could not be asked: what is cached is served, and what is written waits or fails until it answers. */
  readonly storeProblem: string | undefined;
}

/** What serves a mounted volume, of this version of the program. */
export const WORKER_MODULE = join(import.meta.dirname, `worker${extname(import.meta.filename)}`);

/** Resolves when the volume is mounted, also while its store is away. Throws `not-found`, `held`, `unsupported`, `denied`, `config`. */
export async function mountVolume(request: VolumeMountRequest): Promise<VolumeMount> {
  // Asked here, so that the caller reads the reason and not only that the worker ended.
  const { url, volume, format } = await findVolume(request.metaUrl, request.name);
  const { store } = format;
  if (request.peerListen !== undefined) await assertListen(request.peerListen);
  const cacheDir = resolve(request.cacheDir ?? defaultCacheDir());
  refuseOwnParts(request.mountpoint, { cacheDir, metaUrl: url, storeUrl: store });
  try {
    mkdirSync(cacheDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw fromSystemError(error, `the cache directory ${cacheDir} cannot be used (--cache-dir)`);
  }
  assertExists(store);
  const storeProblem = request.storeAsked === true ? undefined : await tryReading(format, request.credentials);
  const wanted = request.passthrough ?? DEFAULT_PASSTHROUGH;
  const problem = wanted === 'off' ? undefined : passthroughProblem(cacheDir);
  const passthrough = problem === undefined ? wanted : 'off';
  const cacheBytes = request.cacheBytes ?? DEFAULT_CACHE_BYTES;
  const { folder } = request;
  const place = folder === undefined ? volume : `${volume}/${folder}`;
  const mount = await mountAndSupervise({
    mountpoint: resolve(request.mountpoint),
    source: `penstock:${place}@${new URL(store).protocol.slice(0, -1)}`,
    readOnly: request.readOnly ?? false,
    posixAcl: true,
    passthrough: passthrough !== 'off',
    workerModule: WORKER_MODULE,
    workerOptions: {
      metaUrl: url,
      volume,
      cacheDir,
      cacheBytes,
      passthrough,
      writeback: request.writeback ?? false,
      openCache: request.openCache ?? false,
      ...(request.cacheGroup !== undefined && {
        cacheGroup: { name: request.cacheGroup, listen: request.peerListen ?? DEFAULT_LISTEN },
      }),
      ...(folder !== undefined && { folder }),
      ...(request.credentials !== undefined && { credentials: request.credentials }),
    },
    background: request.background ?? false,
    ...(request.signals !== undefined && { signals: request.signals }),
    ...(request.accessLogPath !== undefined && { accessLogPath: resolve(request.accessLogPath) }),
    ...(request.logPath !== undefined && { logPath: resolve(request.logPath) }),
    ...(request.keeper !== undefined && { keeper: request.keeper }),
    ...(request.signal !== undefined && { signal: request.signal }),
  });
  return { ...mount, passthroughProblem: problem, storeProblem };
}

/** Throws `not-found` when there is no such volume; never makes a file for a mistyped path. */
export async function requireFormat(url: string, volume: string): Promise<VolumeFormat> {
  return (await findVolume(url, volume)).format;
}

export interface FoundVolume {
  /** Without `?volume=`. */
  readonly url: string;
  readonly volume: string;
  readonly format: VolumeFormat;
}

/**
 * The volume of a URL or of `name`; where neither names one, `lake`, or else the engine's only volume. Throws `not-found`, and `config` where
 * there are several.
 */
export async function findVolume(metaUrl: string, name?: string): Promise<FoundVolume> {
  const { url, named } = parseMetaUrl(metaUrl, name);
  assertExists(url);
  const engine = await openMeta(url, { kind: 'mount-check' });
  try {
    const volume = named ?? (await unnamedVolume(engine));
    const format = await readFormat(engine, volume);
    if (format !== null) return { url, volume, format };
    throw new PenstockError('not-found', `volume '${volume}' is not formatted: run penstock fs format`);
  } finally {
    await engine.close();
  }
}

/** Opening an SQLite engine or a directory as a store makes it: a mistyped path must not leave one behind, nor look like one that is empty. */
export function assertExists(url: string): void {
  const path = /^(?:sqlite|dir):/.test(url) ? pathOfUrl(new URL(url)) : undefined;
  if (path !== undefined && !existsSync(path)) throw new PenstockError('not-found', `${path} does not exist`);
}

async function unnamedVolume(engine: MetaEngine): Promise<string> {
  // Looking for others goes through all that the engine has: only where nobody has a volume of the usual name.
  if ((await readFormat(engine, DEFAULT_VOLUME)) !== null) return DEFAULT_VOLUME;
  const volumes = await formattedVolumes(engine);
  const [first = DEFAULT_VOLUME, ...others] = volumes;
  if (others.length === 0) return first;
  const more = volumes.length > VOLUMES_SHOWN ? ` and ${volumes.length - VOLUMES_SHOWN} more` : '';
  throw new PenstockError(
    'config',
    `the engine has the volumes ${volumes.slice(0, VOLUMES_SHOWN).join(', ')}${more}: say which, by ?volume=NAME or --name NAME`,
  );
}

function defaultCacheDir(): string {
  const base = process.env['XDG_CACHE_HOME'] ?? (process.getuid?.() === 0 ? '/var/cache' : join(homedir(), '.cache'));
  return join(base, 'penstock');
}

/** Flushes and unmounts. Throws `held` when files are open, `io` when the flush failed. */
export async function umountVolume(mountpoint: string, options: UmountOptions = {}): Promise<UmountReport> {
  return umount(mountpoint, options);
}

export interface VolumeInfo {
  readonly mountpoint: string;
  readonly source: string;
  readonly type: string;
}

/** Which mount a path lies in. Throws `not-found` when it is none of ours. */
export function volumeInfo(path: string): VolumeInfo {
  for (let at = resolve(path); ; at = resolve(at, '..')) {
    const mount = findMount(at);
    if (mount?.type === 'fuse.penstock') return { mountpoint: at, source: mount.source, type: mount.type };
    if (at === '/') throw new PenstockError('not-found', `${path} is not in a mount of Penstock`);
  }
}

/** What the supervisor and the worker say of themselves. Throws `not-found`, `io`. */
export async function mountStats(mountpoint: string): Promise<MountStats> {
  const answer = await controlRequest(resolve(mountpoint), { type: 'stats' });
  if (!answer.ok) throw new PenstockError('io', answer.message);
  return answer.value as unknown as MountStats; // the supervisor's own
}

/** Who uses the mount how much, and which files, since its worker began. Throws `not-found`, `io`. */
export async function mountUsage(mountpoint: string): Promise<Usage> {
  const answer = await controlRequest(resolve(mountpoint), { type: 'usage' });
  if (!answer.ok) throw new PenstockError('io', answer.message);
  return answer.value as unknown as Usage; // the worker's own
}

/** `sqlite:x?volume=NAME` -> the engine's URL and the volume, `lake` where none is named. Throws `config`. */
export function splitMetaUrl(metaUrl: string, name?: string): { readonly url: string; readonly volume: string } {
  const { url, named } = parseMetaUrl(metaUrl, name);
  return { url, volume: named ?? DEFAULT_VOLUME };
}

function parseMetaUrl(metaUrl: string, name?: string): { readonly url: string; readonly named: string | undefined } {
  const absolute = absoluteUrl(expandEnvironment(metaUrl), process.cwd());
  const parsed = parsePortUrl(absolute);
  if (parsed === null)
    throw new PenstockError(
      'config',
      `${shownInError(metaUrl)} is not the URL of a metadata engine: expected sqlite:PATH or redis://HOST:PORT/DB`,
    );
  const inUrl = parsed.searchParams.get('volume');
  parsed.searchParams.delete('volume');
  if (inUrl !== null && name !== undefined && inUrl !== name) {
    throw new PenstockError('config', `the URL names volume '${inUrl}', --name says '${name}'`);
  }
  const named = name ?? inUrl ?? undefined;
  if (named !== undefined) assertVolumeName(named);
  return { url: parsed.href, named };
}

/** Replaces the worker under open files. Throws `not-found` when nothing of ours is mounted there, `io` when the new one did not start. */
export async function upgradeMount(mountpoint: string): Promise<Readonly<Record<string, unknown>>> {
  const answer = await controlRequest(resolve(mountpoint), { type: 'upgrade' });
  if (!answer.ok) throw new PenstockError('io', answer.message);
  return answer.value;
}
