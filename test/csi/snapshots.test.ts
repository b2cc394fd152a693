/** Snapshots of volumes, and volumes made of snapshots and of volumes: what they share, what each has alone, and what a killed controller leaves. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { fsckVolume, gcVolume } from '../../fs-gateway/tools/main.ts';
import { formatVolume } from '../../fs-gateway/main.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { failureOf, startCsiDriver } from '../support/csi.ts';
import type { CsiAnswer } from '../../fs-gateway/csi/client.ts';
import type { CsiDriver } from '../support/csi.ts';
import { caller, openTestVolume, startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import { makeTempDir, tempDir } from '../support/temp.ts';
import { errnoOf, lookUp, makeDirectory, namesIn, writeFile } from '../tools/volume-files.ts';
import { createRequest, csiSecrets, volumeOf } from './csi-volume.ts';
import type { MadeVolume } from './csi-volume.ts';

const LARGE = Buffer.alloc(300_000, 'large ');

let services: Services;
let base: string;
let driver: CsiDriver;
let second: CsiDriver;
let secrets: Readonly<Record<string, string>>;

describe.skipIf(missing('redis-server', 'versitygw'))('CSI snapshots and clones', () => {
  beforeAll(async () => {
    services = await startServices();
    base = makeTempDir('csi-snapshots');
    secrets = csiSecrets(services, 1);
    const start = (name: string): Promise<CsiDriver> => startCsiDriver({ base, args: ['--controller'], name });
    [driver, second] = await Promise.all([start('one'), start('two')]);
  });
  afterAll(async () => {
    await Promise.all([driver.kill(), second.kill()]);
    await services.stop();
  });

  it('shares the data of a volume, and nothing else', async () => {
    const source = await create(driver, 'shared', 10e6);
    const open = await openHome('shared', 'writer');
    const folder = await folderOf(open, source.volumeId);
    const kept = await writeFile(open, 'kept', LARGE, folder);
    await writeFile(open, 'small', Buffer.from('small'), folder);
    const before = objects();
    const snapshot = await snapshotOf(driver, 'snap', source.volumeId);
    expect(snapshot).toMatchObject({ sizeBytes: 10e6, sourceVolumeId: source.volumeId, readyToUse: true });
    await open.operations.unlink(caller(), folder, 'small');
    await writeFile(open, 'later', Buffer.from('later'), folder);

    const restored = await create(driver, 'restored', 0, { snapshot: { snapshotId: snapshot.snapshotId } });
    const clone = await create(driver, 'clone', 20e6, { volume: { volumeId: source.volumeId } });
    expect(restored.capacityBytes).toBe(10e6);
    expect(restored).toMatchObject({ contentSource: { snapshot: { snapshotId: snapshot.snapshotId } } });
    expect(clone).toMatchObject({ capacityBytes: 20e6, contentSource: { volume: { volumeId: source.volumeId } } });
    expect(objects()).toEqual(before);
    const inRestored = await folderOf(open, restored.volumeId);
    const inClone = await folderOf(open, clone.volumeId);
    const inSnapshot = await folderOf(open, snapshot.snapshotId);
    expect(await namesIn(open, inRestored)).toEqual(['kept', 'small']);
    expect(await namesIn(open, inClone)).toEqual(['kept', 'later']);
    expect(await contentOf(open, inClone, 'kept')).toEqual(LARGE);
    expect(await errnoOf(() => writeFile(open, 'new', Buffer.from('x'), inSnapshot))).toBe(Errno.EROFS);
    // Copies count to their own capacity only.
    await writeFile(open, 'full', Buffer.alloc(9.6e6), folder);
    expect(await errnoOf(() => writeFile(open, 'more', Buffer.alloc(1e6), folder))).toBe(Errno.EDQUOT);
    await writeFile(open, 'own', Buffer.alloc(12e6), inClone);
    await open.operations.write(caller(), kept, 0n, 0n, Buffer.from('LARGE'), 2, false);
    await open.operations.fsync(caller(), kept, 0n, false);
    expect(await contentOf(open, inRestored, 'kept')).toEqual(LARGE);
    const space = await open.operations.statfs(caller(), inClone);
    expect(Number(space.blocks) * space.blockSize).toBeLessThanOrEqual(20e6);

    const mounted = await failureOf(remove(driver, source.volumeId));
    expect(mounted.code).toBe(Status.FAILED_PRECONDITION);
    await open.close();
    // Each of them lives on without the others.
    await remove(driver, source.volumeId);
    await remove(driver, clone.volumeId);
    await removeSnapshot(driver, snapshot.snapshotId);
    await removeSnapshot(driver, snapshot.snapshotId);
    await gcVolume({ uploadMs: 0, metaUrl: secrets['meta'] ?? '', name: 'shared', graceMs: 0 });
    await expectSound('shared');
    const after = await openHome('shared', 'reader');
    expect(await contentOf(after, await folderOf(after, restored.volumeId), 'kept')).toEqual(LARGE);
    expect(await contentOf(after, await folderOf(after, restored.volumeId), 'small')).toEqual(Buffer.from('small'));
    await after.close();
    // The name may be used again, also while a copy is in the home that had it.
    const again = await create(driver, 'shared', 10e6);
    expect(again.volumeId).not.toContain('penstock:shared/');
    await remove(driver, source.volumeId);
    expect((await create(driver, 'shared', 10e6)).volumeId).toBe(again.volumeId);
    await remove(driver, again.volumeId);
    await remove(driver, restored.volumeId);
    await expectNothing();
  });

  it('lists snapshots in pages, by volume and by id', async () => {
    const [one, two] = [await create(driver, 'one', 1e9), await create(driver, 'two', 1e9)];
    const made = await Promise.all(['a', 'b', 'c'].map((name) => snapshotOf(driver, name, one.volumeId)));
    const other = await snapshotOf(driver, 'other', two.volumeId);
    const list = async (request: object): Promise<string[]> => idsOf(await call('ListSnapshots', request));
    expect(await list({})).toEqual([...made, other].map(({ snapshotId }) => snapshotId));
    expect(await list({ sourceVolumeId: two.volumeId })).toEqual([other.snapshotId]);
    expect(await list({ snapshotId: made[1]?.snapshotId })).toEqual([made[1]?.snapshotId]);
    expect(await list({ snapshotId: 'penstock:one/@none.01234567' })).toEqual([]);
    const first = await call('ListSnapshots', { maxEntries: 3 });
    expect(idsOf(first)).toHaveLength(3);
    expect(await list({ startingToken: first['nextToken'] })).toEqual([other.snapshotId]);
    expect((await failureOf(call('ListSnapshots', { startingToken: 'x' }))).code).toBe(Status.ABORTED);
    expect(await call('GetSnapshot', { snapshotId: other.snapshotId })).toMatchObject({ snapshot: other });
    // Volumes first: snapshots keep what they need.
    for (const { volumeId } of [one, two]) await remove(driver, volumeId);
    for (const { snapshotId } of [...made, other]) await removeSnapshot(driver, snapshotId);
    expect((await failureOf(call('GetSnapshot', { snapshotId: other.snapshotId }))).code).toBe(Status.NOT_FOUND);
    await expectNothing();
  });

  it('refuses what cannot be copied, and leaves nothing of it', async () => {
    const source = await create(driver, 'source', 5e9);
    const none = await create(driver, 'no-limit', 0);
    const open = await openHome('no-limit', 'writer');
    await writeFile(open, 'f', Buffer.alloc(2e6), await folderOf(open, none.volumeId));
    await open.close();
    const snapshot = await snapshotOf(driver, 'snap', source.volumeId);
    const ofSnapshot = { snapshot: { snapshotId: snapshot.snapshotId } };
    const ofVolume = { volume: { volumeId: source.volumeId } };
    const make = (capacityRange: object, volumeContentSource: object, more = {}): Promise<number> =>
      failureOf(
        call('CreateVolume', { ...createRequest('copy', secrets, 0), capacityRange, volumeContentSource, ...more }),
      ).then(({ code }) => code);
    expect(await make({ requiredBytes: 4e9 }, ofSnapshot)).toBe(Status.OUT_OF_RANGE);
    expect(await make({ requiredBytes: 4e9 }, ofVolume)).toBe(Status.OUT_OF_RANGE);
    expect(await make({ limitBytes: 4e9 }, ofVolume)).toBe(Status.OUT_OF_RANGE);
    // Found out by copying it: a volume without a limit has as much as it has.
    expect(await make({ requiredBytes: 1e6 }, { volume: { volumeId: none.volumeId } })).toBe(Status.OUT_OF_RANGE);
    expect(await make({}, { snapshot: { snapshotId: 'penstock:source/@never.01234567' } })).toBe(Status.NOT_FOUND);
    expect(await make({}, { snapshot: { snapshotId: source.volumeId } })).toBe(Status.NOT_FOUND);
    expect(await make({}, { volume: { volumeId: 'vol-of-another-driver' } })).toBe(Status.NOT_FOUND);
    expect(await make({}, { volume: { volumeId: '' } })).toBe(Status.INVALID_ARGUMENT);
    expect(await make({}, ofVolume, { parameters: { blockSize: '1MiB' } })).toBe(Status.INVALID_ARGUMENT);
    expect(await make({}, ofVolume, { secrets: { ...secrets, secretAccessKey: 'wrong' } })).toBe(
      Status.UNAUTHENTICATED,
    );
    const shot = (request: object): Promise<number> =>
      failureOf(call('CreateSnapshot', { name: 'snap', ...request })).then(({ code }) => code);
    expect(await shot({ sourceVolumeId: none.volumeId })).toBe(Status.ALREADY_EXISTS);
    expect(await shot({ name: '', sourceVolumeId: none.volumeId })).toBe(Status.INVALID_ARGUMENT);
    expect(await shot({ name: 'new', sourceVolumeId: '' })).toBe(Status.INVALID_ARGUMENT);
    expect(await shot({ name: 'new', sourceVolumeId: 'penstock:no/no.01234567' })).toBe(Status.NOT_FOUND);
    expect(await shot({ name: 'new', sourceVolumeId: none.volumeId, parameters: { x: '1' } })).toBe(
      Status.INVALID_ARGUMENT,
    );
    await formatVolume({ metaUrl: secrets['meta'] ?? '', name: 'precious', storeUrl: secrets['store'] ?? '' });
    expect(await shot({ name: 'new', sourceVolumeId: 'penstock:precious' })).toBe(Status.FAILED_PRECONDITION);
    await gcVolume({ uploadMs: 0, metaUrl: secrets['meta'] ?? '', name: 'no-limit', graceMs: 0 });
    await expectSound('no-limit');
    // The same name with what it takes.
    const copy = await create(driver, 'copy', 5e9, ofSnapshot);
    const another = await failureOf(
      call('CreateVolume', { ...createRequest('copy', secrets, 5e9), volumeContentSource: ofVolume }),
    );
    expect(another.code).toBe(Status.ALREADY_EXISTS);
    for (const { volumeId } of [source, none, copy]) await remove(driver, volumeId);
    await removeSnapshot(driver, snapshot.snapshotId);
    await expectNothing('precious');
  });

  it('makes each copy once and whole, whichever controller is asked and killed', async () => {
    const source = await create(driver, 'many', 1e9);
    const open = await openHome('many', 'writer');
    const folder = await folderOf(open, source.volumeId);
    for (let d = 0; d < 10; d++) {
      const directory = await makeDirectory(open, `d${d}`, folder);
      await Promise.all(
        Array.from({ length: 100 }, (_, n) => writeFile(open, `f${n}`, Buffer.from(`${d} ${n}`), directory)),
      );
    }
    await open.close();
    const snapshot = { name: 'many-snap', sourceVolumeId: source.volumeId, secrets };
    const clone = {
      ...createRequest('many-clone', secrets, 1e9),
      volumeContentSource: { volume: { volumeId: source.volumeId } },
    };
    for (const [method, request] of [
      ['CreateSnapshot', snapshot],
      ['CreateVolume', clone],
    ] as const) {
      const victim = await startCsiDriver({ base, args: ['--controller'], name: method });
      const lost = failureOf(victim.call('Controller', method, request));
      await until('it copies', async () => (await services.redis.admin.keys('{many}c*')).length > 0);
      await victim.kill();
      expect((await lost).code).toBe(Status.UNAVAILABLE);
    }
    const answers = await Promise.allSettled(
      [driver, second, driver, second].flatMap((one) => [
        one.call('Controller', 'CreateSnapshot', snapshot),
        one.call('Controller', 'CreateVolume', clone),
      ]),
    );
    for (const answer of answers)
      if (answer.status === 'rejected') expect(answer.reason).toMatchObject({ code: Status.ABORTED });
    const { snapshotId } = await snapshotOf(driver, 'many-snap', source.volumeId);
    const { volumeId } = volumeOf(await call('CreateVolume', clone));
    // The source goes while others read its copies.
    await remove(second, source.volumeId);
    const after = await openHome('many', 'reader');
    for (const id of [snapshotId, volumeId]) {
      const copy = await folderOf(after, id);
      expect(await namesIn(after, copy)).toHaveLength(10);
      for (let d = 0; d < 10; d++) {
        const directory = (await lookUp(after, copy, `d${d}`)).ino;
        expect(await namesIn(after, directory)).toHaveLength(100);
        expect(await contentOf(after, directory, 'f99')).toEqual(Buffer.from(`${d} 99`));
      }
    }
    await after.close();
    await gcVolume({ uploadMs: 0, metaUrl: secrets['meta'] ?? '', name: 'many', graceMs: 0 });
    await expectSound('many');
    // Whoever comes while another is at work is sent away, and comes again.
    const calls = [driver, second].flatMap((one) => [
      () => remove(one, volumeId),
      () => removeSnapshot(one, snapshotId),
    ]);
    await Promise.all(calls.map((again) => until('it is removed', () => again().then(() => true, isAborted))));
    await expectNothing('precious');
  });
});

function call(method: string, request: object): ReturnType<CsiDriver['call']> {
  return driver.call('Controller', method, { secrets, ...request });
}

async function create(one: CsiDriver, name: string, bytes: number, source?: object): Promise<MadeVolume> {
  const request = {
    ...createRequest(name, secrets, bytes),
    ...(source !== undefined && { volumeContentSource: source }),
  };
  return volumeOf(await one.call('Controller', 'CreateVolume', request));
}

function remove(one: CsiDriver, volumeId: string): Promise<CsiAnswer> {
  return one.call('Controller', 'DeleteVolume', { volumeId, secrets });
}

interface MadeSnapshot {
  readonly snapshotId: string;
}

async function snapshotOf(one: CsiDriver, name: string, sourceVolumeId: string): Promise<MadeSnapshot> {
  const answer = await one.call('Controller', 'CreateSnapshot', { name, sourceVolumeId, secrets });
  return answer['snapshot'] as MadeSnapshot; // of CreateSnapshotResponse
}

function removeSnapshot(one: CsiDriver, snapshotId: string): Promise<CsiAnswer> {
  return one.call('Controller', 'DeleteSnapshot', { snapshotId, secrets });
}

function isAborted(error: unknown): boolean {
  expect(error).toMatchObject({ code: Status.ABORTED });
  return false;
}

function idsOf(answer: Readonly<Record<string, unknown>>): string[] {
  const entries = answer['entries'] as readonly { readonly snapshot: MadeSnapshot }[]; // of ListSnapshotsResponse
  return entries.map(({ snapshot }) => snapshot.snapshotId);
}

/** The Penstock volume that the folders are in. */
function openHome(name: string, mount: string): Promise<OpenVolume> {
  const volume = { base: tempDir('volume'), metaUrl: secrets['meta'] ?? '', storeDir: '' };
  return openTestVolume(volume, `${name}-${mount}`, [], name);
}

async function folderOf(open: OpenVolume, id: string): Promise<bigint> {
  const { ino } = await lookUp(open, 1n, '.volumes');
  return (await lookUp(open, ino, id.replace(/^.*\//, ''))).ino;
}

async function contentOf(open: OpenVolume, directory: bigint, name: string): Promise<Buffer> {
  const { ino, size } = await lookUp(open, directory, name);
  return open.operations.read(caller(), ino, 0n, 0n, Number(size), 0);
}

function objects(): string[] {
  const folder = join(services.s3.folder, 'volumes', 'csi-1');
  if (!existsSync(folder)) return [];
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

async function expectSound(name: string): Promise<void> {
  expect((await fsckVolume({ metaUrl: secrets['meta'] ?? '', name })).findings).toEqual([]);
}

/** But of a volume that somebody else made. */
async function expectNothing(except = ''): Promise<void> {
  await services.redis.admin.select(1);
  const keys = await services.redis.admin.keys('{[^}]*}*');
  expect(keys.filter((key) => !key.startsWith(`{${except}}`))).toEqual([]);
  expect(objects()).toEqual([]);
}
