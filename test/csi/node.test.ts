/** The node service with real mounts: views of a volume, one pod, inline volumes, and caches that nobody uses. */
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CsiAnswer } from '../../fs-gateway/csi/client.ts';
import { failureOf } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, run, shell, until } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { makeNode } from './csi-node.ts';

const ONE_NODE = { mount: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } };
/** As the kubelet asks for it. */
const INLINE = {
  ...{ volumeId: `csi-${'a1'.repeat(32)}`, volumeCapability: ONE_NODE },
  volumeContext: { 'csi.storage.k8s.io/ephemeral': 'true', 'csi.storage.k8s.io/pod.name': 'p', capacity: '10Mi' },
};
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
    // An inline volume: without secrets of its own the node could not remove it.
    const inline = await failureOf(node.publish('inline', { ...INLINE, stagingTargetPath: '', secrets: {} }));
    expect(inline).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(inline.details).toContain('--secrets');
    expect(readdirSync(join(node.base, 'pods', 'inline'))).toEqual([]);
    await node.clean('writer', 'reader', 'team');
  });

  it('makes an inline volume for the life of a pod', async () => {
    const node = await makeNode(services, 'pvc-beside', 6, { ownSecrets: true });
    const { volumeId, volumeContext: attributes } = INLINE;
    const inline = { ...INLINE, stagingTargetPath: '', secrets: {} };
    const [folder, target] = [join(node.base, 'pods', 'pod'), node.target('pod')];
    guardMount(join(folder, '.penstock'));
    const refused = await failureOf(
      node.publish('pod', { ...inline, volumeContext: { ...attributes, capacity: '0' } }),
    );
    expect(refused.details).toContain("attribute 'capacity': '0'");
    for (let n = 0; n < 2; n++) await node.publish('pod', inline);
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
  });

  it('drops the cache of a volume that its node has not used for a week, and keeps the others', async () => {
    const cachesIn = (base: string): string[] =>
      ['0', '1'].map((n) => join(base, 'cache-csi', `0000000${n}-0000-4000-8000-000000000000`));
    const prepare = (base: string): void => {
      for (const [index, folder] of cachesIn(base).entries()) {
        const [piece, mount] = [join(folder, 'blocks', '00', 'piece'), join(folder, 'mount-ended')];
        mkdirSync(join(piece, '..'), { recursive: true });
        mkdirSync(mount);
        writeFileSync(piece, '');
        const endedMs = Date.now() - (index === 0 ? 8 : 6) * 86_400_000;
        utimesSync(mount, endedMs / 1000, endedMs / 1000);
      }
    };
    const node = await makeNode(services, 'pvc-cache', 11, { prepare });
    const caches = cachesIn(node.base);
    await until('it is gone', () => readdirSync(caches[0] ?? '').join() === 'mount-ended');
    expect(existsSync(join(caches[1] ?? '', 'blocks', '00', 'piece'))).toBe(true);
    await node.stage();
    await node.clean();
  });
});
