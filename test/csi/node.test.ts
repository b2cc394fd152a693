/** The node service with real mounts: views, one pod and one node, and bad input. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { CsiAnswer } from '../../fs-gateway/csi/client.ts';
import type { CsiError } from '../../fs-gateway/csi/status.ts';
import { failureOf } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, isAlive, isMounted, run, shell, until } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { makeNode } from './csi-node.ts';
import { createRequest, volumeOf, WRITER } from './csi-volume.ts';

const ONE_NODE = { mount: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } };
const ONE_POD = { mount: {}, accessMode: { mode: 'SINGLE_NODE_SINGLE_WRITER' } };

let services: Services;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))('the CSI node service', () => {
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(async () => {
    await services.stop();
  });

  it('publishes read-only and sub-path views of one mount, one pod where one is asked for', async () => {
    const node = await makeNode(services, 'pvc-views', 2);
    await node.stage();
    await node.publish('writer');
    await node.publish('reader', { readonly: true });
    await node.publish('team', { volumeContext: { subPath: 'teams/a' } });
    await shell('echo secret > "$1/root"; echo hello > "$1/teams/a/file"', node.target('writer'));
    expect(await shell('cat "$1/root"', node.target('reader'))).toBe('secret\n');
    expect((await run('bash', ['-c', `echo x > ${node.target('reader')}/new`])).stderr).toContain('Read-only');
    expect(await shell('ls "$1"; echo more >> "$1/file"', node.target('team'))).toBe('file\n');
    const stats = await node.call('NodeGetVolumeStats', { volumePath: node.target('team') });
    expect(stats).toMatchObject({ volumeCondition: { abnormal: false } });
    expect(stats['usage']).toMatchObject([{ unit: 'BYTES' }, { unit: 'INODES' }]);
    // The capacity is a limit, and grows under the pods.
    const fill = 'head -c 20000000 /dev/zero > "$1/big" && sync "$1/big"';
    const resize = { volumeId: node.volumeId, secrets: node.secrets, capacityRange: { requiredBytes: 40e6 } };
    await expect(shell(fill, node.target('writer'))).rejects.toThrow(/quota|No space/i);
    await node.driver.call('Controller', 'ControllerExpandVolume', resize);
    expect(await node.call('NodeExpandVolume', { ...resize, volumePath: node.target('writer') })).toEqual({
      capacityBytes: 40e6,
    });
    await until('the mount has heard of it', () =>
      shell(fill, node.target('writer')).then(
        () => true,
        () => false,
      ),
    );

    const again = await failureOf(node.publish('reader', { volumeContext: { subPath: 'teams' } }));
    expect(again.code).toBe(Status.ALREADY_EXISTS);
    await expect(node.publish('second', { volumeCapability: ONE_POD })).rejects.toMatchObject({
      code: Status.FAILED_PRECONDITION,
    });
    // Who can write into the volume cannot lead a mount out of it.
    await shell('ln -s / "$1/way-out"', node.target('writer'));
    const out = await failureOf(node.publish('out', { volumeContext: { subPath: 'way-out/etc' } }));
    expect(out.code).toBe(Status.FAILED_PRECONDITION);
    const up = await failureOf(node.publish('up', { volumeContext: { subPath: 'teams/../..' } }));
    expect(up.code).toBe(Status.INVALID_ARGUMENT);
    for (const pod of ['second', 'out', 'up']) expect(existsSync(node.target(pod))).toBe(false);
    await node.clean('writer', 'reader', 'team');
  });

  it('makes an inline volume for the life of a pod', async () => {
    const node = await makeNode(services, 'pvc-beside', 6, { ownSecrets: true });
    const volumeId = `csi-${'a1'.repeat(32)}`;
    const attributes = { 'csi.storage.k8s.io/ephemeral': 'true', 'csi.storage.k8s.io/pod.name': 'p', capacity: '10Mi' };
    const inline = { volumeId, stagingTargetPath: '', secrets: {}, volumeCapability: ONE_NODE };
    const [folder, target] = [join(node.base, 'pods', 'pod'), node.target('pod')];
    guardMount(join(folder, '.penstock'));
    const refused = await failureOf(
      node.publish('pod', { ...inline, volumeContext: { ...attributes, capacity: '0' } }),
    );
    expect(refused.details).toContain("attribute 'capacity': '0'");
    for (let n = 0; n < 2; n++) await node.publish('pod', { ...inline, volumeContext: attributes });
    await shell('echo kept > "$1/file"; sync "$1/file"', target);
    await expect(shell('head -c 20000000 /dev/zero > "$1/big" && sync "$1/big"', target)).rejects.toThrow(/quota/i);
    const stats = await node.call('NodeGetVolumeStats', { volumeId, volumePath: target });
    expect(stats).toMatchObject({
      usage: [{ unit: 'BYTES', total: 2 ** 20 * 10 }, {}],
      volumeCondition: { abnormal: false },
    });
    const unpublish = (): Promise<CsiAnswer> => node.call('NodeUnpublishVolume', { volumeId, targetPath: target });
    for (let n = 0; n < 2; n++) await unpublish();
    expect(readdirSync(folder)).toEqual([]);
    const left = await node.driver.call('Controller', 'ListVolumes');
    expect(left['entries']).toMatchObject([{ volume: { volumeId: node.volumeId } }]);
    await services.redis.admin.select(6);
    expect(await services.redis.admin.keys('{csi-*')).toEqual([]);
    // Without secrets of its own the node could not remove it.
    const other = await makeNode(services, 'pvc-other', 7);
    const none = await failureOf(other.publish('pod', { ...inline, volumeContext: attributes }));
    expect(none).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(none.details).toContain('--secrets');
    expect(readdirSync(join(other.base, 'pods', 'pod'))).toEqual([]);
  });

  it('refuses what cannot be done and leaves nothing behind', async () => {
    const node = await makeNode(services, 'pvc-refused', 4);
    const early = await failureOf(node.publish('pod'));
    expect(early).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(early.details).toContain('is not staged');
    expect(existsSync(node.target('pod'))).toBe(false);
    expect((await failureOf(node.stage({ volumeId: 'vol-of-another-driver' }))).code).toBe(Status.NOT_FOUND);
    for (const volumeId of ['penstock:never-made', 'penstock:pvc-refused/never.01234567']) {
      expect((await failureOf(node.stage({ volumeId }))).code).toBe(Status.NOT_FOUND);
    }
    const wrong = await failureOf(node.stage({ secrets: { ...node.secrets, secretAccessKey: 'hunter2' } }));
    expect(wrong.code).toBe(Status.UNAUTHENTICATED);
    const none = await failureOf(node.stage({ secrets: {} }));
    expect(none.details).toContain("secret 'meta' is missing");
    expect(isMounted(node.staging)).toBe(false);
    const block = await failureOf(node.stage({ volumeCapability: { block: {}, accessMode: WRITER.accessMode } }));
    expect(block.details).toContain('block volumes are not supported');

    await services.redis.kill();
    expect((await failureOf(node.stage())).code).toBe(Status.UNAVAILABLE);
    expect(isMounted(node.staging)).toBe(false);
    // What needs no engine works without it.
    await node.unpublish('pod');
    await node.unstage();
    await services.redis.start();
    await node.create();
    await node.stage();
    await node.publish('pod');
    await services.redis.kill();
    await node.unpublish('pod');
    await services.redis.start();
    await node.unstage();
    expect(isMounted(node.staging)).toBe(false);
    expect(readFileSync(node.driver.logPath, 'utf8')).not.toContain('hunter2');
  });

  it('answers each call while Redis hangs, leaves nothing behind, and does it when Redis is back', async () => {
    const node = await makeNode(services, 'pvc-hung', 8);
    const other = await makeNode(services, 'pvc-hung-too', 8);
    await node.stage();
    await node.publish('pod');
    const target = node.target('pod');
    await shell('echo kept > "$1/file"; sync "$1/file"', target);
    const { pid } = services.redis;
    onTestFinished(() => {
      if (isAlive(pid)) process.kill(pid, 'SIGCONT');
    });
    process.kill(pid, 'SIGSTOP');
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      stage: () => other.stage(),
      publish: () => node.publish('second'),
      stats: () => node.call('NodeGetVolumeStats', { volumePath: target }),
      expand: () => node.call('NodeExpandVolume', { volumePath: target, capacityRange: { requiredBytes: 20e6 } }),
    };
    const outcomes = await Promise.all(
      Object.values(calls).map((call) =>
        call().then(
          () => Status.OK,
          (error: unknown) => (error as CsiError).code,
        ),
      ),
    );
    // What needs Redis says so; the rest is the kernel's to answer.
    expect(outcomes[0]).toBe(Status.UNAVAILABLE);
    for (const outcome of outcomes) expect([Status.OK, Status.UNAVAILABLE]).toContain(outcome);
    expect(isMounted(other.staging)).toBe(false);
    if (outcomes[1] !== Status.OK) expect(existsSync(node.target('second'))).toBe(false);
    process.kill(pid, 'SIGCONT');
    for (const [name, call] of Object.entries(calls)) {
      await until(`${name} works`, () =>
        call().then(
          () => true,
          () => false,
        ),
      );
    }
    expect(await shell('cat "$1/file"', node.target('second'))).toBe('kept\n');
    await node.clean('pod', 'second');
    await other.clean();
  });

  it('keeps staging and targets apart, and says which path can be no folder', async () => {
    const node = await makeNode(services, 'pvc-paths', 9);
    const file = join(node.base, 'file');
    writeFileSync(file, '');
    const publishAt = (targetPath: string): ReturnType<typeof failureOf> =>
      failureOf(node.call('NodePublishVolume', { stagingTargetPath: node.staging, targetPath }));
    for (const stagingTargetPath of [file, join(file, 'below')]) {
      const { code } = await failureOf(node.call('NodeStageVolume', { stagingTargetPath }));
      expect(code, stagingTargetPath).toBe(Status.INVALID_ARGUMENT);
    }
    await node.stage();
    const wrong = [file, join(file, 'below'), join(node.base, 'n'.repeat(300)), node.staging, join(node.staging, 'in')];
    for (const path of wrong) expect((await publishAt(path)).code, path).toBe(Status.INVALID_ARGUMENT);
    // Only an unstage ends the mount, after it wrote what is staged.
    const ended = await failureOf(node.call('NodeUnpublishVolume', { targetPath: node.staging }));
    expect(ended).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(ended.details).toContain('not published');
    await node.publish('pod');
    // A volume of another name has nothing to say about it.
    const made = await node.driver.call('Controller', 'CreateVolume', createRequest('pvc-else', node.secrets, 1e6));
    const { volumeId } = volumeOf(made);
    const paths = { volumeId, stagingTargetPath: node.staging, targetPath: node.target('pod') };
    for (const method of ['NodeStageVolume', 'NodePublishVolume', 'NodeUnpublishVolume', 'NodeUnstageVolume']) {
      const refused = await failureOf(node.call(method, paths));
      expect(refused.code, method).toBe(Status.FAILED_PRECONDITION);
    }
    expect(await shell('echo kept > "$1/f"; cat "$1/f"', node.target('pod'))).toBe('kept\n');
    await node.clean('pod');
  });

  it('drops the cache of a volume that its node has not used for a week, and keeps the others', async () => {
    const node = await makeNode(services, 'pvc-cache', 11);
    await node.driver.kill();
    const caches = ['0', '1'].map((n) => join(node.base, 'cache-csi', `0000000${n}-0000-4000-8000-000000000000`));
    for (const [index, folder] of caches.entries()) {
      const [piece, mount] = [join(folder, 'blocks', '00', 'piece'), join(folder, 'mount-ended')];
      mkdirSync(join(piece, '..'), { recursive: true });
      mkdirSync(mount);
      writeFileSync(piece, '');
      const endedMs = Date.now() - (index === 0 ? 8 : 6) * 86_400_000;
      utimesSync(mount, endedMs / 1000, endedMs / 1000);
    }
    await node.restart();
    await until('it is gone', () => readdirSync(caches[0] ?? '').join() === 'mount-ended');
    expect(existsSync(join(caches[1] ?? '', 'blocks', '00', 'piece'))).toBe(true);
    await node.stage();
    await node.clean();
  });

  it('comes through a storm of calls for one volume', async () => {
    const node = await makeNode(services, 'pvc-storm', 10, { daemonsApart: true });
    const calls = [
      ...[() => node.stage(), () => node.unstage(), () => node.publish('a')],
      ...[() => node.unpublish('a'), () => node.publish('b'), () => node.unpublish('b')],
    ];
    const codes = new Set<number>();
    let done = 0;
    const ask = async (first: number): Promise<void> => {
      for (let n = 0; n < 18; n++) {
        // Each asks in an order of its own.
        const call = calls[(first + n * (2 * first + 1)) % calls.length];
        await call?.().then(
          () => (done += 1),
          (error: unknown) => codes.add((error as CsiError).code),
        );
      }
    };
    await Promise.all([0, 1, 2, 3].map(ask));
    expect(done).toBeGreaterThan(5);
    // Another call for the volume is under way; it is not staged, or published still.
    for (const code of codes) expect([Status.ABORTED, Status.FAILED_PRECONDITION]).toContain(code);
    await node.stage();
    await node.publish('a');
    expect(await shell('echo kept > "$1/f"; cat "$1/f"', node.target('a'))).toBe('kept\n');
    await node.clean('a', 'b');
  });

  it('touches no mount that is not its own', async () => {
    const node = await makeNode(services, 'pvc-foreign', 5);
    mkdirSync(node.staging, { recursive: true });
    guardMount(node.staging);
    expect((await run('mount', ['-t', 'tmpfs', 'tmpfs', node.staging])).status).toBe(0);
    writeFileSync(join(node.staging, 'theirs'), '');
    for (const call of [node.stage(), node.unstage()]) {
      expect((await failureOf(call)).code).toBe(Status.FAILED_PRECONDITION);
    }
    expect(existsSync(join(node.staging, 'theirs'))).toBe(true);
    symlinkSync('/nowhere', join(node.base, 'link'));
    expect((await failureOf(node.call('NodeUnstageVolume', { stagingTargetPath: 'relative' }))).code).toBe(
      Status.INVALID_ARGUMENT,
    );
  });
});
