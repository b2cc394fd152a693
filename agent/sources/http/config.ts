/** The keys of `{ type: http }`. */
import { z } from 'zod';
import { bytes, duration } from '../../../lib/config/load.ts';
import { eventTime, listenAddress, priority, serverTls, topic } from '../../config-parts.ts';

const MIB = 2 ** 20;

export const httpSourceSchema = z
  .strictObject({
    type: z.literal('http'),
    listen: listenAddress,
    path: z
      .string()
      .regex(/^\/[A-Za-z0-9._~/-]*$/, 'expected a path, as /ingest')
      .default('/'),
    to: topic,
    priority,
    /** A field of the value. Without it, readings have no key and go to the partitions in turn. */
    sensor: z.string().min(1).optional(),
    eventTime,
    /** What clients send as `Authorization: Bearer TOKEN`. */
    token: z.string().min(1).optional(),
    /** A file that holds it; read again within seconds of a change. */
    tokenFile: z.string().min(1).optional(),
    tls: serverTls.optional(),
    /** Of one request, uncompressed: some 20,000 readings of 200 bytes, and little on a machine with 80 MB for the agent. */
    maxBodyBytes: bytes()
      .refine((size) => size >= 1024 && size <= 256 * MIB, 'expected 1KiB to 256MiB')
      .default(4 * MIB),
    /** For a whole request, from its first byte to its last. */
    timeout: duration()
      .refine((ms) => ms >= 1000 && ms <= 3_600_000, 'expected 1s to 1h')
      .default(30_000),
    maxConnections: z.int().min(1).max(10_000).default(256),
    /** How many requests with an `Idempotency-Key` are remembered; the default is 10,000, or what the spool has room for. */
    idempotencyKeys: z.int().min(1).optional(),
  })
  .refine(({ token, tokenFile }) => token === undefined || tokenFile === undefined, {
    path: ['tokenFile'],
    error: 'a token and a file with it are given: expected one of them',
  });
export type HttpSourceConfig = z.output<typeof httpSourceSchema>;
