/** csi-sanity, the conformance suite of the CSI specification, whole, on the real backend: Redis, an S3 server, FUSE mounts. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { startCsiDriver } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, run } from '../support/mount-guard.ts';
import { cannotMount, missing, requireService } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { csiSecrets, secretsFolder } from './csi-volume.ts';

const CALLS = [
  ...['CreateVolume', 'DeleteVolume', 'ControllerPublishVolume', 'ControllerUnpublishVolume'],
  ...['ControllerValidateVolumeCapabilities', 'ControllerExpandVolume', 'NodeStageVolume', 'NodePublishVolume'],
  ...['CreateSnapshot', 'DeleteSnapshot', 'ListSnapshots'],
];

/** Of 103: the others are of services that this driver does not offer (attaching, modifying, groups of snapshots), and one is pending in the suite. */
const RUN = 70;

let services: Services;
const absent = cannotMount() || missing('redis-server', 'versitygw', 'csi-sanity');

describe.skipIf(absent)('csi-sanity', () => {
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(async () => {
    await services.stop();
  });

  it('passes whole against Redis, S3 and FUSE', async () => {
    const base = tempDir(`mount-${process.pid}`);
    const secrets = csiSecrets(services, 1);
    const driver = await startCsiDriver({ base, args: ['--secrets', secretsFolder(base, secrets)] });
    onTestFinished(() => driver.kill());
    const [mountDir, stagingDir] = [join(base, 'mount'), join(base, 'staging')];
    guardMount(join(mountDir, 'target'));
    guardMount(stagingDir);
    const secretsPath = join(base, 'secrets.yaml');
    writeFileSync(secretsPath, JSON.stringify(Object.fromEntries(CALLS.map((call) => [`${call}Secret`, secrets]))));
    const sanity = await run(requireService('csi-sanity'), [
      ...['--csi.endpoint', `unix://${driver.socket}`, '--csi.secrets', secretsPath],
      ...['--csi.mountdir', mountDir, '--csi.stagingdir', stagingDir],
      ...['--ginkgo.no-color', '--csi.testvolumesize', String(2 ** 30)],
    ]);
    const summary = /Ran (\d+) of (\d+) Specs.*\n.*?(\d+) Passed \| (\d+) Failed/.exec(sanity.stdout);
    expect(sanity.stdout.slice(-6000), sanity.stdout).toContain('SUCCESS!');
    expect(summary?.[4]).toBe('0');
    expect(Number(summary?.[3])).toBe(RUN);
    // Nothing of it is left, and no secret was written down.
    expect((await driver.call('Controller', 'ListVolumes'))['entries']).toEqual([]);
    expect((await driver.call('Controller', 'ListSnapshots'))['entries']).toEqual([]);
    expect(await services.redis.admin.select(1).then(() => services.redis.admin.keys('{[^}]*}*'))).toEqual([]);
    const log = readFileSync(driver.logPath, 'utf8');
    expect(log).toContain('CreateVolume');
    expect(log).not.toContain(secrets['secretAccessKey']);
    expect(readFileSync(`/proc/${driver.pid}/cmdline`, 'utf8')).not.toContain(secrets['secretAccessKey']);
  });
});
