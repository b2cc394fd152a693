/**
 * The current pointer of a table, the one record that says which metadata is true. JSON, so that an administrator can read it:
 *   { "metadataLocation": URL, "uuid": table uuid, "snapshotId": decimal text or null }
 */
import { z } from 'zod';
import { PenstockError } from '../errors.ts';

const pointerSchema = z.object({
  metadataLocation: z.string(),
  uuid: z.string(),
  snapshotId: z.string().regex(/^\d+$/).nullable(),
});

export type Pointer = z.output<typeof pointerSchema>;

export function formatPointer(pointer: Pointer): Buffer {
  return Buffer.from(JSON.stringify(pointer));
}

/** Throws `corrupt` naming the table. */
export function parsePointer(value: Buffer, name: string): Pointer {
  try {
    return pointerSchema.parse(JSON.parse(value.toString('utf8')));
  } catch (error) {
    throw new PenstockError('corrupt', `the pointer of table ${name} is damaged`, { cause: error });
  }
}
