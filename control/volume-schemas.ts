/** What is said of a volume: the shapes of its tools' answers, for the routes that give them, the tools that make them, and the page that shows them. */
import { z } from 'zod';

export const quotaSchema = z.object({
  path: z.string(),
  inode: z.number(),
  bytes: z.number(),
  bytesMax: z.number().nullable(),
  inodes: z.number(),
  inodesMax: z.number().nullable(),
  counting: z.boolean().meta({ description: 'it was interrupted: nothing is enforced until it is set again' }),
});
export type Quota = z.output<typeof quotaSchema>;

export const copySchema = z.object({
  path: z.string(),
  files: z.number(),
  directories: z.number(),
  bytes: z.number().meta({ description: 'sizes of the files; no data is copied' }),
  consistent: z.boolean().meta({ description: 'false: what was changed meanwhile may be in it in part' }),
});
export type Copied = z.output<typeof copySchema>;

export const snapshotSchema = z.object({ name: z.string(), path: z.string(), created: z.string() });
export type VolumeSnapshot = z.output<typeof snapshotSchema>;

export const trashedSchema = z.object({
  id: z.number(),
  path: z.string().nullable().meta({ description: 'where it was; null: not known any more' }),
  kind: z.string(),
  bytes: z.number(),
  removed: z.string(),
});
export type Trashed = z.output<typeof trashedSchema>;

export const restoredSchema = z.object({
  restored: z.int(),
  failed: z.int(),
  failures: z.array(z.string()).readonly(),
});
export type Restored = z.output<typeof restoredSchema>;

export const emptiedSchema = z.object({ removed: z.int() });
export type Emptied = z.output<typeof emptiedSchema>;

/** Something that is done to a volume and may take long. */
export const volumeOperationSchema = z.object({
  id: z.string(),
  operation: z.string().meta({ description: 'as in this document: `volumes.clone`' }),
  target: z.string(),
  by: z.string(),
  state: z
    .enum(['waiting', 'running', 'done', 'failed', 'interrupted', 'cancelled'])
    .meta({ description: 'interrupted: its server ended; ask for it again' }),
  startedMs: z.number(),
  changedMs: z.number(),
  progress: z.object({ phase: z.string(), done: z.number() }).nullable(),
  result: z
    .record(z.string(), z.unknown())
    .nullable()
    .meta({ description: 'what the request is answered with where it does not take long' }),
  error: z
    .object({ status: z.int(), code: z.string(), detail: z.string() })
    .nullable()
    .meta({ description: 'with the HTTP status and the code that the request would have been answered with' }),
});
export type VolumeOperation = z.output<typeof volumeOperationSchema>;
