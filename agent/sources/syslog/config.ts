/** The keys of `{ type: syslog }`. */
import { z } from 'zod';
import { bytes } from '../../../lib/config/load.ts';
import { listenAddress, priority, serverTls, topic } from '../../config-parts.ts';

export const syslogSourceSchema = z
  .strictObject({
    type: z.literal('syslog'),
    listen: listenAddress,
    transport: z.enum(['udp', 'tcp']).default('udp'),
    tls: serverTls.optional(),
    to: topic,
    priority,
    /** A field of the reading. */
    sensor: z.string().min(1).default('hostname'),
    /** RFC 5424 asks receivers for 2048 at least; what fits into one datagram. */
    maxMessageBytes: bytes()
      .refine((size) => size >= 480 && size <= 65_535, 'expected 480 to 65535')
      .default(65_535),
    maxConnections: z.int().min(1).max(10_000).default(256),
  })
  .refine(({ transport, tls }) => tls === undefined || transport === 'tcp', {
    path: ['tls'],
    error: 'tls is for transport: tcp',
  });
export type SyslogSourceConfig = z.output<typeof syslogSourceSchema>;
