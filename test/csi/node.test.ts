/** The node service with real mounts: killed drivers and daemons under programs that read and write, what is left by a node's restart, bad input. */
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { failureOf, onHost, startCsiDriver } from '../support/csi.ts';
import type { CsiAnswer } from '../../fs-gateway/csi/client.ts';
import type { CsiDriver } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, isAlive, isMounted, killIfAlive, run, shell, start, until } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { createRequest, csiSecrets, volumeOf, WRITER } from './csi-volume.ts';

/** Appends, replaces by rename and reads back until the file `$2` appears; any error ends it with a status. */
const PROGRAM = `
  i=0
  while [ ! -e "$2" ]; do
    i=$((i + 1))
    echo "line $i" >> "$1/log"
    head -c 50000 /dev/zero > "$1/next"
    echo "$i" >> "$1/next"
    mv "$1/next" "$1/current"
    [ "$(tail -n 1 "$1/current" | tr -d '\\0')" = "$i" ]
    [ "$(wc -l < "$1/log")" = "$i" ]
  done
  echo "$i"`;
const ONE_POD = { mount: {}, accessMode: { mode: 'SINGLE_NODE_SINGLE_WRITER' } };

let services: Services;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))('the CSI node service', () => {
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(async () => {
    await services.stop();
  });

  it('leaves programs alone when the driver and the mount worker are killed, and a new driver goes on', async () => {
    const node = await makeNode('pvc-kill', 1, { daemonsApart: true });
    await node.stage();
    await node.publish('pod-a');
    const [target, stopFile] = [node.target('pod-a'), join(node.base, 'stop')];
    const program = start('bash', ['-euc', PROGRAM, 'bash', target, stopFile], 40_000);
    const lines = async (): Promise<number> => Number(await shell('wc -l < "$1/log"', target));
    await until(
      'the program works',
      () =>
        existsSync(node.staging) &&
        lines().then(
          (n) => n > 3,
          () => false,
        ),
    );

    await node.driver.kill();
    const { workerPid, supervisorPid } = await mountStats(node.staging);
    const before = await lines();
    await until('it goes on without the driver', async () => (await lines()) > before + 3);
    process.kill(Number(workerPid), 'SIGKILL');
    await until('it goes on with another worker', async () => (await lines()) > before + 10);
    expect((await mountStats(node.staging))['restarts']).toBe(1);

    await node.restart();
    // The calls that the orchestrator repeats after a restart find everything as it was.
    await node.stage();
    await node.publish('pod-a');
    expect((await mountStats(node.staging))['supervisorPid']).toBe(supervisorPid);
    const held = await failureOf(node.unstage());
    expect(held).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(held.details).toContain(target);
    writeFileSync(stopFile, '');
    const { status, stdout, stderr } = await program.finished;
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(Number(stdout)).toBe(await lines());
    await node.clean('pod-a');
    await until('the daemon ends', () => !isAlive(Number(supervisorPid)));
  });

  it('publishes read-only and sub-path views of one mount, one pod where one is asked for', async () => {
    const node = await makeNode('pvc-views', 2);
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

  it('mounts anew what a dead daemon or a restart of the node left', async () => {
    const node = await makeNode('pvc-stale', 3);
    await node.stage();
    await node.publish('pod');
    await shell('echo kept > "$1/file"; sync "$1/file"', node.target('pod'));
    const { supervisorPid } = await mountStats(node.staging);
    // With its worker, as when the kernel ends a whole container: nobody is left to detach the mount.
    process.kill(-Number(supervisorPid), 'SIGKILL');
    await until('the mount is dead', async () => (await run('stat', ['-f', node.target('pod')])).status !== 0);
    expect(isMounted(node.target('pod'))).toBe(true);
    expect(await node.call('NodeGetVolumeStats', { volumePath: node.target('pod') })).toMatchObject({
      volumeCondition: { abnormal: true },
    });
    await node.publish('pod');
    expect(await shell('cat "$1/file"', node.target('pod'))).toBe('kept\n');

    const second = await mountStats(node.staging);
    // Without its worker, which then detaches the mount and ends.
    process.kill(Number(second['supervisorPid']), 'SIGKILL');
    await until('the mount is dead', async () => (await run('stat', ['-f', node.target('pod')])).status !== 0);
    expect(isMounted(node.staging)).toBe(false);
    await node.publish('pod');
    expect(await shell('cat "$1/file"', node.target('pod'))).toBe('kept\n');

    const third = await mountStats(node.staging);
    process.kill(-Number(third['supervisorPid']), 'SIGKILL');
    await until('the mount is dead', async () => (await run('stat', ['-f', node.target('pod')])).status !== 0);
    await node.clean('pod');
    await node.stage();
    await node.publish('pod');
    expect(await shell('cat "$1/file"', node.target('pod'))).toBe('kept\n');
    await node.clean('pod');
  });

  it('gives a volume of one node to one node, and to another when the first has died', async () => {
    const [one, other] = [await makeNode('pvc-one', 6), await makeNode('pvc-one', 6, { host: 'node-b' })];
    const volumeCapability = { mount: { mountFlags: ['writeback'] }, accessMode: { mode: 'SINGLE_NODE_WRITER' } };
    await one.stage({ volumeCapability });
    const held = await failureOf(other.stage({ volumeCapability }));
    expect(held.code).toBe(Status.FAILED_PRECONDITION);
    expect(held.details).toContain(`${hostname()}:${one.staging}`);
    expect(isMounted(other.staging)).toBe(false);
    const { supervisorPid } = await mountStats(one.staging);
    process.kill(-Number(supervisorPid), 'SIGKILL');
    // As soon as the lease of the dead node has run out.
    await until(
      'the other node has it',
      () =>
        other.stage({ volumeCapability }).then(
          () => true,
          () => false,
        ),
      40_000,
    );
    const flag = { mount: { mountFlags: ['noatime'] }, accessMode: WRITER.accessMode };
    expect((await failureOf(one.stage({ volumeCapability: flag }))).details).toContain("'noatime'");
    await other.clean();
  });

  it('refuses what cannot be done and leaves nothing behind', async () => {
    const node = await makeNode('pvc-refused', 4);
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

  it('touches no mount that is not its own', async () => {
    const node = await makeNode('pvc-foreign', 5);
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

interface TestNode {
  readonly base: string;
  readonly staging: string;
  readonly driver: CsiDriver;
  readonly secrets: Readonly<Record<string, string>>;
  /** Of the volume, once it is made. */
  readonly volumeId: string;
  target(pod: string): string;
  create(): Promise<void>;
  call(method: string, request: object): Promise<CsiAnswer>;
  stage(request?: object): Promise<CsiAnswer>;
  unstage(): Promise<CsiAnswer>;
  publish(pod: string, request?: object): Promise<CsiAnswer>;
  unpublish(pod: string): Promise<CsiAnswer>;
  /** Unpublishes, unstages, and sees that nothing is left. */
  clean(...pods: string[]): Promise<void>;
  /** Another driver on the same socket. */
  restart(): Promise<void>;
}

/** A volume, and a node that can use it. */
interface NodeSetting {
  /** Its daemons are started by a driver of their own, as the chart has it. */
  readonly daemonsApart?: boolean;
  readonly host?: string;
}

async function makeNode(volume: string, database: number, setting: NodeSetting = {}): Promise<TestNode> {
  const { daemonsApart = false, host } = setting;
  const base = tempDir(`mount-${process.pid}`);
  const mounts = daemonsApart ? await startCsiDriver({ base, name: 'mounts', args: ['--node'] }) : undefined;
  if (mounts !== undefined) onTestFinished(() => mounts.kill());
  const args = mounts === undefined ? [] : ['--mounts', `unix:${mounts.socket}`];
  const secrets = csiSecrets(services, database);
  const launch = async (): Promise<CsiDriver> => {
    const driver = await startCsiDriver({ base, args, ...(host !== undefined && { prefix: onHost(host) }) });
    onTestFinished(() => driver.kill());
    return driver;
  };
  let driver = await launch();
  const staging = join(base, 'staging');
  const target = (pod: string): string => join(base, 'pods', pod, 'mount');
  mkdirSync(join(base, 'pods'));
  guardMount(staging);
  onTestFinished(async () => {
    const pid = (await mountStats(staging).catch(() => undefined))?.['supervisorPid'];
    if (typeof pid === 'number') killIfAlive(-pid);
  });
  let volumeId = '';
  const own = { volumeCapability: WRITER, secrets, volumeContext: {} };
  const node: TestNode = {
    base,
    staging,
    get driver() {
      return driver;
    },
    secrets,
    get volumeId() {
      return volumeId;
    },
    target,
    async create() {
      const made = await driver.call('Controller', 'CreateVolume', createRequest(volume, secrets, 10e6));
      ({ volumeId } = volumeOf(made));
    },
    call: (method, request) => driver.call('Node', method, { volumeId, ...own, ...request }),
    stage: (request = {}) => node.call('NodeStageVolume', { stagingTargetPath: staging, ...request }),
    unstage: () => node.call('NodeUnstageVolume', { stagingTargetPath: staging }),
    publish: (pod, request = {}) => {
      guardMount(target(pod));
      mkdirSync(join(base, 'pods', pod), { recursive: true });
      return node.call('NodePublishVolume', { stagingTargetPath: staging, targetPath: target(pod), ...request });
    },
    unpublish: (pod) => node.call('NodeUnpublishVolume', { targetPath: target(pod) }),
    async clean(...pods) {
      for (const pod of pods) {
        await node.unpublish(pod);
        await node.unpublish(pod);
        expect(existsSync(target(pod))).toBe(false);
      }
      await node.unstage();
      await node.unstage();
      expect(isMounted(staging)).toBe(false);
    },
    async restart() {
      driver = await launch();
    },
  };
  await node.create();
  return node;
}
