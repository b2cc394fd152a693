/** What programs see, and what is left, when drivers, daemons and whole containers are killed. */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { failureOf } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { isAlive, isMounted, run, shell, until } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { makeNode, startProgram } from './csi-node.ts';
import { WRITER } from './csi-volume.ts';

let services: Services;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))('mounts of the CSI node service', () => {
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(async () => {
    await services.stop();
  });

  it('leaves programs alone when the driver and the mount worker are killed, and a new driver goes on', async () => {
    const node = await makeNode(services, 'pvc-kill', 1, { daemonsApart: true });
    await node.stage();
    await node.publish('pod-a');
    const target = node.target('pod-a');
    const program = await startProgram(node, 'pod-a');

    await node.driver.kill();
    const { workerPid, supervisorPid } = await mountStats(node.staging);
    await program.goesOn();
    process.kill(Number(workerPid), 'SIGKILL');
    await program.goesOn();
    expect((await mountStats(node.staging))['restarts']).toBe(1);

    await node.restart();
    // The calls that the orchestrator repeats after a restart find everything as it was.
    await node.stage();
    await node.publish('pod-a');
    expect((await mountStats(node.staging))['supervisorPid']).toBe(supervisorPid);
    const held = await failureOf(node.unstage());
    expect(held).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(held.details).toContain(target);
    await program.end();
    await node.clean('pod-a');
    await until('the daemon ends', () => !isAlive(supervisorPid));
  });

  it('goes on with the mount of a daemon that was killed, with its worker or without', async () => {
    const node = await makeNode(services, 'pvc-kept', 7);
    await node.stage();
    await node.publish('pod');
    const program = await startProgram(node);
    const first = await node.killDaemon();
    await program.goesOn();
    await node.publish('pod');
    // Only its supervisor: the worker leaves at once.
    const { supervisorPid } = await mountStats(node.staging);
    expect(supervisorPid).not.toBe(first);
    process.kill(supervisorPid, 'SIGKILL');
    await program.goesOn();
    await program.end();
    await node.clean('pod');
  });

  it('goes on with mounts whose whole container was killed, and after whoever has the devices was replaced', async () => {
    const node = await makeNode(services, 'pvc-container', 8, { daemonsApart: true });
    await node.stage();
    await node.publish('pod');
    const program = await startProgram(node);
    await node.killMounts();
    await node.killDaemon();
    expect(await node.call('NodeGetVolumeStats', { volumePath: node.target('pod') })).toMatchObject({
      volumeCondition: { abnormal: true, message: expect.stringContaining('does not answer') as string },
    });
    await node.restartMounts();
    await program.goesOn();
    await node.driver.kill();
    await node.restart();
    const log = (): string => readFileSync(node.driver.logPath, 'utf8');
    await until('the next keeper has the mount', () => log().split('keeps the mount').length > 3);
    await node.killDaemon();
    await program.goesOn();
    await program.end();
    await node.clean('pod');
  });

  it('mounts anew what a restart of the node, or the death of all that has the device, left', async () => {
    const node = await makeNode(services, 'pvc-stale', 3);
    await node.stage();
    await node.publish('pod');
    await shell('echo kept > "$1/file"; sync "$1/file"', node.target('pod'));
    const crash = async (): Promise<void> => {
      await node.driver.kill();
      await node.killDaemon();
      await until('the mount is dead', async () => (await run('stat', ['-f', node.target('pod')])).status !== 0);
      await node.restart();
    };
    await crash();
    expect(isMounted(node.target('pod'))).toBe(true);
    expect(await node.call('NodeGetVolumeStats', { volumePath: node.target('pod') })).toMatchObject({
      volumeCondition: { abnormal: true },
    });
    await node.publish('pod');
    expect(await shell('cat "$1/file"', node.target('pod'))).toBe('kept\n');

    await crash();
    await node.clean('pod');
    await node.stage();
    await node.publish('pod');
    expect(await shell('cat "$1/file"', node.target('pod'))).toBe('kept\n');
    await node.clean('pod');
  });

  it('gives a volume of one node to one node, and to another when the first has died', async () => {
    const [one, other] = [
      await makeNode(services, 'pvc-one', 6),
      await makeNode(services, 'pvc-one', 6, { host: 'node-b' }),
    ];
    const volumeCapability = { mount: { mountFlags: ['writeback'] }, accessMode: { mode: 'SINGLE_NODE_WRITER' } };
    await one.stage({ volumeCapability });
    const held = await failureOf(other.stage({ volumeCapability }));
    expect(held.code).toBe(Status.FAILED_PRECONDITION);
    expect(held.details).toContain(`${hostname()}:${one.staging}`);
    expect(isMounted(other.staging)).toBe(false);
    await one.driver.kill();
    await one.killDaemon();
    // As soon as the lease of the dead node has run out.
    await until('the other node has it', () =>
      other.stage({ volumeCapability }).then(
        () => true,
        () => false,
      ),
    );
    const flag = { mount: { mountFlags: ['noatime'] }, accessMode: WRITER.accessMode };
    expect((await failureOf(other.stage({ volumeCapability: flag }))).details).toContain("'noatime'");
    await other.clean();
  });
});
