/** The tools of the file system on the volume of a pipeline, as the control plane asks for them. They are loaded with the first use: most servers never need them. */
import type { VolumeTools } from '../control/volume-tools.ts';
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { volumeOf } from '../lib/lake/ports.ts';
import { absoluteUrl } from '../lib/registry.ts';

const tools = () => import('../fs-gateway/tools/main.ts');

export function volumeToolsOf(config: PipelineConfig, baseDir: string): VolumeTools {
  const request = { metaUrl: absoluteUrl(config.meta, baseDir), name: volumeOf(config) };
  return {
    format: async (options) => {
      const { formatVolume } = await import('../fs-gateway/main.ts');
      await formatVolume({ ...request, storeUrl: absoluteUrl(config.store, baseDir), options });
    },
    quotas: async () => (await tools()).volumeQuotas(request),
    setQuota: async (path, limits) => (await tools()).setVolumeQuota({ ...request, path, limits }),
    snapshots: async () => (await tools()).volumeSnapshots(request),
    createSnapshot: async (snapshot) => (await tools()).snapshotVolume({ ...request, snapshot }),
    deleteSnapshot: async (snapshot) => (await tools()).removeSnapshot({ ...request, snapshot }),
    clone: async (source, target) => (await tools()).cloneInVolume({ ...request, source, target }),
    trash: async () => (await tools()).listTrash(request),
    restore: async (wanted, to) =>
      (await tools()).restoreTrash({ ...request, wanted, ...(to !== undefined && { to }) }),
    emptyTrash: async (olderThanMs) => (await tools()).emptyTrash({ ...request, olderThanMs }),
  };
}
