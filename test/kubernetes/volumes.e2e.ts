/**
 * Claims, snapshots and copies as a user makes them, in a real Kubernetes: the sidecars of kubernetes-csi beside our controller, each with the token of the chart's
 * service account and the arguments that the chart gives it, on Redis and S3.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { csiSecrets, secretsFolder } from '../csi/csi-volume.ts';
import { CHART, manifests, podOf } from '../deploy/helm.ts';
import { startCsiDriver, type CsiDriver } from '../support/csi.ts';
import { startServices, type Services } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { startCluster, type Cluster } from './cluster.ts';

const NAMESPACE = '/api/v1/namespaces/penstock';
const CLAIMS = `${NAMESPACE}/persistentvolumeclaims`;
const SNAPSHOTS = '/apis/snapshot.storage.k8s.io/v1/namespaces/penstock/volumesnapshots';

interface Claim {
  readonly spec: { readonly volumeName?: string };
  readonly status?: { readonly phase?: string; readonly capacity?: { readonly storage: string } };
}

describe.skipIf(missing('kubernetes', 'custom-resources', 'csi-sidecars', 'helm', 'redis-server', 'versitygw'))(
  'volumes of a real Kubernetes',
  () => {
    let cluster: Cluster;
    let services: Services;
    let driver: CsiDriver;

    beforeAll(async () => {
      services = await startServices();
      cluster = await startCluster();
      await cluster.customResources();
      const secrets = csiSecrets(services, 1);
      const values = join(cluster.folder, 'values.json');
      const { meta, store, accessKeyId, secretAccessKey } = secrets;
      writeFileSync(
        values,
        JSON.stringify({ log: 'kafka://kafka:9092', meta, store, s3: { accessKeyId, secretAccessKey } }),
      );
      await cluster.helm([
        'install',
        'penstock',
        CHART,
        '-n',
        'penstock',
        '--create-namespace',
        '--no-hooks',
        '-f',
        values,
      ]);
      driver = await startCsiDriver({
        base: cluster.folder,
        args: ['--controller', '--secrets', secretsFolder(cluster.folder, secrets)],
      });
      const { body } = await cluster.api<{ readonly status: { readonly token: string } }>(
        'POST',
        `${NAMESPACE}/serviceaccounts/penstock-csi-controller/token`,
        { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} },
      );
      const kubeconfig = cluster.kubeconfigOf('csi-controller', body.status.token);
      const deployment = manifests(await cluster.helm(['get', 'manifest', 'penstock', '-n', 'penstock'])).find(
        ({ kind, metadata }) => kind === 'Deployment' && metadata.name === 'penstock-csi-controller',
      );
      const sidecars =
        deployment &&
        podOf(deployment)?.containers.filter(({ name }) => /^(provisioner|resizer|snapshotter)$/.test(name));
      expect(sidecars).toHaveLength(3);
      for (const { name, args = [] } of sidecars ?? []) {
        const own = args.map((arg) => arg.replace('/csi/csi.sock', driver.socket));
        cluster.spawn(name, join(requireService('csi-sidecars'), `csi-${name}`), [...own, '--kubeconfig', kubeconfig]);
      }
      // The cluster's own, which the chart does not bring.
      const controller = join(requireService('csi-sidecars'), 'snapshot-controller');
      cluster.spawn('snapshot-controller', controller, [
        ...['--kubeconfig', cluster.kubeconfig],
        // It would look half a minute for their definitions.
        '--feature-gates=CSIVolumeGroupSnapshot=false',
      ]);
    });
    afterAll(async () => {
      await cluster.stop();
      await driver.kill();
      await services.stop();
    });

    async function claim(name: string, storage: string, source: object = {}): Promise<void> {
      const spec = {
        storageClassName: 'penstock',
        accessModes: ['ReadWriteMany'],
        resources: { requests: { storage } },
        ...source,
      };
      const object = { apiVersion: 'v1', kind: 'PersistentVolumeClaim', metadata: { name }, spec };
      expect(await cluster.api('POST', CLAIMS, object)).toMatchObject({ status: 201 });
    }

    async function bound(name: string): Promise<Claim> {
      let found: Claim | undefined;
      await until(`the claim ${name} is bound`, async () => {
        found = (await cluster.api<Claim>('GET', `${CLAIMS}/${name}`)).body;
        return found.status?.phase === 'Bound';
      }).catch(async (error: unknown) => {
        const events = await cluster.kubectl([
          'get',
          'events',
          '-n',
          'penstock',
          '--field-selector',
          `involvedObject.name=${name}`,
        ]);
        throw new Error(`${String(error)}\n${events.output}`);
      });
      if (found === undefined) throw new Error('unreachable: it was bound');
      return found;
    }

    async function volumes(): Promise<number> {
      const { body } = await cluster.api<{
        readonly items: readonly { readonly spec: { readonly storageClassName: string } }[];
      }>('GET', '/api/v1/persistentvolumes');
      return body.items.filter(({ spec }) => spec.storageClassName === 'penstock').length;
    }

    it('makes the volume of a claim, and grows it', async () => {
      await claim('shared', '1Gi');
      const { spec } = await bound('shared');
      const { body } = await cluster.api<{ readonly spec: object }>(
        'GET',
        `/api/v1/persistentvolumes/${spec.volumeName ?? ''}`,
      );
      expect(body.spec).toMatchObject({
        capacity: { storage: '1Gi' },
        csi: { driver: 'penstock.csi', nodeStageSecretRef: { name: 'penstock', namespace: 'penstock' } },
      });
      await cluster.api('PATCH', `${CLAIMS}/shared`, { spec: { resources: { requests: { storage: '2Gi' } } } });
      await until('it has grown', async () => (await bound('shared')).status?.capacity?.storage === '2Gi');
    });

    it('makes volumes of a snapshot and of a claim', async () => {
      const snapshot = {
        ...{ apiVersion: 'snapshot.storage.k8s.io/v1', kind: 'VolumeSnapshot', metadata: { name: 'monday' } },
        spec: { volumeSnapshotClassName: 'penstock', source: { persistentVolumeClaimName: 'shared' } },
      };
      expect(await cluster.api('POST', SNAPSHOTS, snapshot)).toMatchObject({ status: 201 });
      await claim('again', '2Gi', {
        dataSource: { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'monday' },
      });
      await claim('copy', '2Gi', { dataSource: { kind: 'PersistentVolumeClaim', name: 'shared' } });
      await Promise.all([bound('again'), bound('copy')]);
      const { body } = await cluster.api<{ readonly status: object }>('GET', `${SNAPSHOTS}/monday`);
      expect(body.status).toMatchObject({ readyToUse: true });
    });

    it('removes what is deleted', async () => {
      await cluster.api('DELETE', `${SNAPSHOTS}/monday`);
      for (const name of ['shared', 'again', 'copy']) await cluster.api('DELETE', `${CLAIMS}/${name}`);
      await until('no volume is left', async () => (await volumes()) === 0);
      await until('no snapshot is left', async () => {
        const path = '/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents';
        return (
          ((await cluster.api<{ readonly items: readonly object[] | null }>('GET', path)).body.items ?? []).length === 0
        );
      });
    });

    it('asks for nothing that the chart does not allow', () => {
      for (const name of ['provisioner', 'resizer', 'snapshotter']) {
        const log = readFileSync(join(cluster.folder, `${name}.log`), 'utf8');
        expect(log).toContain('Successfully acquired lease');
        expect(log.split('\n').filter((line) => line.includes('forbidden'))).toEqual([]);
      }
    });
  },
);
