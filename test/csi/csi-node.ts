/** A node that uses one volume through the driver, with what a container orchestrator does around it, and a program that reads and writes there. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import type { CsiAnswer } from '../../fs-gateway/csi/client.ts';
import { mountStats } from '../../fs-gateway/main.ts';
import { onHost, startCsiDriver } from '../support/csi.ts';
import type { CsiDriver } from '../support/csi.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, isMounted, killIfAlive, shell, start, until } from '../support/mount-guard.ts';
import { tempDir } from '../support/temp.ts';
import { createRequest, csiSecrets, secretsFolder, volumeOf, WRITER } from './csi-volume.ts';
import { BESIDE_MS } from '../support/hang.ts';

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

export interface Program {
  /** It reads and writes, whatever it has to wait for. */
  goesOn(): Promise<void>;
  /** It never saw an error, and nothing that it wrote is lost. */
  end(): Promise<void>;
}

export async function startProgram(node: TestNode, pod = 'pod'): Promise<Program> {
  const [target, stopFile] = [node.target(pod), join(node.base, 'stop')];
  const program = start('bash', ['-euc', PROGRAM, 'bash', target, stopFile], BESIDE_MS);
  const lines = async (): Promise<number> => Number(await shell('wc -l < "$1/log" || echo 0', target));
  const goesOn = async (): Promise<void> => {
    const before = await lines();
    await until('the program goes on', async () => (await lines()) > before + 3);
  };
  await goesOn();
  return {
    goesOn,
    async end() {
      writeFileSync(stopFile, '');
      const { status, stdout, stderr } = await program.finished;
      expect(stderr).toBe('');
      expect(status).toBe(0);
      expect(Number(stdout)).toBe(await lines());
    },
  };
}

export interface TestNode {
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
  /** With its worker; returns its pid. */
  killDaemon(): Promise<number>;
  /** The driver that starts daemons, where it is another one. */
  killMounts(): Promise<void>;
  restartMounts(): Promise<void>;
}

/** A volume, and a node that can use it. */
interface NodeSetting {
  /** Its daemons are started by a driver of their own, as the chart has it. */
  readonly daemonsApart?: boolean;
  readonly host?: string;
  /** The driver has the secrets itself. */
  readonly ownSecrets?: boolean;
  /** What is there before the driver starts. */
  prepare?(base: string): void;
}

export async function makeNode(
  services: Services,
  volume: string,
  database: number,
  setting: NodeSetting = {},
): Promise<TestNode> {
  const { daemonsApart = false, host, ownSecrets = false } = setting;
  const base = tempDir(`mount-${process.pid}`);
  setting.prepare?.(base);
  const launchMounts = async (): Promise<CsiDriver> => {
    const keeper = `unix:${join(base, 'csi.sock.keep')}`;
    const launched = await startCsiDriver({ base, name: 'mounts', args: ['--node', '--keeper', keeper] });
    onTestFinished(() => launched.kill());
    return launched;
  };
  let mounts = daemonsApart ? await launchMounts() : undefined;
  const args = mounts === undefined ? [] : ['--mounts', `unix:${mounts.socket}`];
  const secrets = csiSecrets(services, database);
  if (ownSecrets) args.push('--secrets', secretsFolder(base, secrets));
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
    async killDaemon() {
      const { supervisorPid } = await mountStats(staging);
      process.kill(-supervisorPid, 'SIGKILL');
      return supervisorPid;
    },
    async killMounts() {
      await mounts?.kill();
    },
    async restartMounts() {
      mounts = await launchMounts();
    },
  };
  await node.create();
  return node;
}
