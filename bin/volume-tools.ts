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
    setQuota: async (path, limits, progress) => (await tools()).setVolumeQuota({ ...request, path, limits, progress }),
    snapshots: async () => (await tools()).volumeSnapshots(request),
    createSnapshot: async (snapshot, { onProgress, alongside }) =>
      (await tools()).snapshotVolume({ ...request, snapshot, progress: onProgress, alongside }),
    deleteSnapshot: async (snapshot, progress) => (await tools()).removeSnapshot({ ...request, snapshot, progress }),
    clone: async (source, target, { onProgress, alongside }) =>
      (await tools()).cloneInVolume({ ...request, source, target, progress: onProgress, alongside }),
    trash: async () => (await tools()).listTrash(request),
    restore: async (wanted, to, progress) =>
      (await tools()).restoreTrash({ ...request, wanted, progress, ...(to !== undefined && { to }) }),
    emptyTrash: async (olderThanMs, progress) => (await tools()).emptyTrash({ ...request, olderThanMs, progress }),
  };
}
