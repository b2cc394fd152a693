/** The node service with bad input: wrong secrets and ids, calls out of order, paths that are others'. */
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { failureOf } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, isMounted, run, shell } from '../support/mount-guard.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import { cannotMount, missing } from '../support/services.ts';
import { makeNode } from './csi-node.ts';
import { createRequest, volumeOf, WRITER } from './csi-volume.ts';

let services: Services;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))(
  'the CSI node service, asked for what cannot be,',
  () => {
    beforeAll(async () => {
      services = await startServices();
    });
    afterAll(async () => {
      await services.stop();
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

    it('asks the store once for a stage, so that no other status than its own is given for what that says', async () => {
      const proxy = await startFaultProxy(services.s3.endpoint);
      onTestFinished(() => proxy.stop());
      const endpoint = `${proxy.endpoint}&attempts=2`;
      const node = await makeNode({ ...services, s3: { ...services.s3, endpoint } }, 'pvc-asked', 6);
      const asked = (): number => proxy.requests.filter((request) => /penstock-csi|mount-check/.test(request)).length;
      const before = asked();
      await node.stage();
      expect(asked() - before).toBe(1);
      await node.unstage();
      proxy.decide = () => ({ status: 503 });
      expect((await failureOf(node.stage())).code).toBe(Status.UNAVAILABLE);
      proxy.decide = () => ({ status: 404, code: 'NoSuchBucket' });
      expect((await failureOf(node.stage())).code).toBe(Status.FAILED_PRECONDITION);
      expect(isMounted(node.staging)).toBe(false);
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
      const wrong = [
        file,
        join(file, 'below'),
        join(node.base, 'n'.repeat(300)),
        node.staging,
        join(node.staging, 'in'),
      ];
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
  },
);
