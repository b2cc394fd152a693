/** The keys of `{ type: journald }`. */
import { isAbsolute } from 'node:path';
import { z } from 'zod';
import { bytes } from '../../../lib/config/load.ts';
import { priority, topic } from '../../config-parts.ts';

/** syslog(3), by their numbers. */
export const SEVERITIES = ['emerg', 'alert', 'crit', 'err', 'warning', 'notice', 'info', 'debug'] as const;

/** systemd.journal-fields(7): at most 64 characters. */
const fieldName = z.string().regex(/^[A-Z_][A-Z0-9_]{0,63}$/, 'expected the name of a field of the journal, as MESSAGE_ID'); // prettier-ignore
/** An argument of journalctl: the kernel takes some 2 MB of them all. */
const match = z.string().max(4096).regex(/^[A-Z_][A-Z0-9_]{0,63}=[^\0]*$/, 'expected FIELD=value, as _TRANSPORT=kernel'); // prettier-ignore

export const journaldSourceSchema = z.strictObject({
  type: z.literal('journald'),
  to: topic,
  priority,
  /** A field of the reading. One node's entries stay in order. */
  sensor: z.string().min(1).default('hostname'),
  /** Where the journal lies; without it, where journalctl looks: /var/log/journal and /run/log/journal. */
  directory: z.string().refine(isAbsolute, 'expected an absolute path, as /mnt/host/journal').optional(),
  /** What any of these three names is taken; everything without them. */
  units: z
    .array(z.string().regex(/^[A-Za-z0-9:_.\\@-]{1,255}$/, 'expected the name of a unit, without wildcards'))
    .max(100)
    .default([]),
  identifiers: z
    .array(z.string().regex(/^[^\0]{1,255}$/, 'expected what a program calls itself, as kernel'))
    .max(100)
    .default([]),
  /** In a list of its own, all of its matches must be met. */
  matches: z
    .array(
      z.union([match, z.array(match).min(1).max(10)], {
        error: 'expected FIELD=value, as _TRANSPORT=kernel, or a list of those',
      }),
    ) // prettier-ignore
    .max(100)
    .default([]),
  /** What none of the others may take. */
  exclude: z.array(match).max(100).default([]),
  /** The least severe that is taken. Without it, also entries that state none. */
  severity: z.enum(SEVERITIES).optional(),
  /** Of what was written before the agent first looked; `boot`: since the machine was started. Nothing is skipped unless asked for. */
  start: z.enum(['beginning', 'boot', 'end']).default('beginning'),
  /** Fields that a reading has beside those of every entry: all are some thirty, and most of them say the same in each entry. */
  fields: z.union([z.literal('all'), z.array(fieldName).max(100)], { error: 'expected `all`, or names of fields of the journal, as [MESSAGE_ID]' }).default([]), // prettier-ignore
  /** Of one field: a core dump has no place in a log. */
  maxFieldBytes: bytes()
    .refine((size) => size >= 64 && size <= 512 * 1024, 'expected 64 B to 512KiB')
    .default(256 * 1024),
});
export type JournaldSourceConfig = z.output<typeof journaldSourceSchema>;
