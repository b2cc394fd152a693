/** The live mounts of a volume, with what each reported last. */
import { z } from 'zod';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { mountReportSchema, readMountReports } from '../../lib/volume/mount-reports.ts';
import type { MountReport } from '../../lib/volume/mount-reports.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';

export const mountSchema = z.object({
  id: z.string().meta({ description: 'the same for every life of the mount' }),
  session: z.int(),
  host: z.string(),
  pid: z.int(),
  mountpoint: z.string(),
  folder: z.string().nullable().meta({ description: "the folder of a Kubernetes claim; null: the whole volume's" }),
  startedMs: z.number(),
  use: mountReportSchema
    .omit({ workloads: true })
    .nullable()
    .meta({ description: 'what it reported last, when it was used last; null: it was not used yet' }),
});
type Mount = z.output<typeof mountSchema>;

export interface ReportingMount {
  readonly mount: Mount;
  readonly report: MountReport | undefined;
}

/** By id. */
export async function readMounts(engine: MetaEngine, volume: string): Promise<ReportingMount[]> {
  const mounts = await liveMounts(engine, volume);
  const reports = await readMountReports(engine, new VolumeKeys(volume));
  return mounts
    .map(({ id: session, host, pid, detail, startedMs }) => {
      const id = String(detail['mountId'] ?? session);
      const report = reports.get(id);
      const folder = detail['folder'];
      const mount = {
        id,
        session,
        host,
        pid,
        mountpoint: String(detail['mountpoint'] ?? ''),
        folder: folder === undefined ? null : String(folder),
        startedMs,
        use: report ?? null,
      };
      return { mount, report };
    })
    .sort((a, b) => (a.mount.id < b.mount.id ? -1 : 1));
}
