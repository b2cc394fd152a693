/** The node service in trouble: Redis hangs, and many calls come at once. */
import { existsSync } from 'node:fs';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { CsiError } from '../../fs-gateway/csi/status.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { isAlive, isMounted, shell, until } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { makeNode } from './csi-node.ts';

let services: Services;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))('the CSI node service in trouble', () => {
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(async () => {
    await services.stop();
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
          () => undefined,
          (error: unknown) => error as CsiError, // what the client throws
        ),
      ),
    );
    // What needs Redis says so; the rest is the kernel's to answer.
    expect(outcomes[0]?.code).toBe(Status.UNAVAILABLE);
    for (const failed of outcomes) expect([Status.OK, Status.UNAVAILABLE]).toContain(failed?.code ?? Status.OK);
    expect(isMounted(other.staging)).toBe(false);
    if (outcomes[1] !== undefined) {
      // Also where the mount answers the look at it, and then not the publish.
      expect(outcomes[1].message).toContain('does not answer');
      expect(existsSync(node.target('second'))).toBe(false);
    }
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
});
