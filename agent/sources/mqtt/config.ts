/** The keys of `{ type: mqtt }`. */
import { z } from 'zod';
import { duration } from '../../../lib/config/load.ts';
import { eventTime, priority, serverAddress, serverUrl, topic } from '../../config-parts.ts';

const DEFAULT_PORTS: Readonly<Record<string, number>> = { 'mqtt:': 1883, 'mqtts:': 8883 };
const TOPIC_BYTES_MAX = 65_535;
const DAY_MS = 86_400_000;

const brokerUrl = serverUrl(
  DEFAULT_PORTS,
  'the URL of a broker, as mqtt://127.0.0.1:1883 or mqtts://broker.example:8883',
);

/** Why a text is no topic filter of MQTT (5.0, section 4.7), or null. */
function filterProblem(filter: string): string | null {
  if (filter === '' || Buffer.byteLength(filter) > TOPIC_BYTES_MAX) return 'expected 1 to 65535 bytes';
  if (filter.includes('\0')) return 'a topic filter has no NUL';
  const levels = filter.split('/');
  if (levels[0] === '$share' && (levels.length < 3 || levels[1] === '' || /[+#]/.test(levels[1] ?? ''))) {
    return 'expected $share/GROUP/FILTER for a shared subscription';
  }
  const wrong = levels.find(
    (level, index) =>
      (level.includes('#') && (level !== '#' || index < levels.length - 1)) || (level.includes('+') && level !== '+'),
  );
  return wrong === undefined ? null : `'${wrong}': # stands alone at the end, + alone between slashes`;
}

const topicFilter = z.string().superRefine((filter, context) => {
  const problem = filterProblem(filter);
  if (problem !== null) context.addIssue({ code: 'custom', message: problem });
});

export const mqttSourceSchema = z
  .strictObject({
    type: z.literal('mqtt'),
    url: brokerUrl,
    version: z
      .enum(['5', '3.1.1'])
      .or(z.literal(5).transform(() => '5' as const))
      .default('5'),
    topics: z
      .array(topicFilter)
      .min(1, 'expected at least one topic filter, as plant/#')
      .max(1000)
      .refine((filters) => new Set(filters).size === filters.length, 'a topic filter is named twice'),
    to: topic,
    priority,
    /** `topic`: the topic of the message; else a field of the value. */
    sensor: z.string().min(1).default('topic'),
    eventTime,
    /** `raw`: text, which becomes `{ "value": ... }`. */
    payload: z.enum(['json', 'raw']).default('json'),
    /** The highest that is asked for: each message comes with the lower one of this and what it was published with. */
    qos: z.literal([0, 1, 2]).default(2),
    /** What the broker kept of a topic and sends to a new subscription. */
    retained: z.enum(['take', 'skip']).default('take'),
    /** Stable, or the broker does not know the session again. Default: `penstock-` and the agent's id. */
    clientId: z.string().min(1).max(65_535).optional(),
    user: z.string().min(1).optional(),
    passwordFile: z.string().min(1).optional(),
    tls: z
      .strictObject({
        /** Default: the authorities that Node knows. */
        ca: z.string().min(1).optional(),
        cert: z.string().min(1).optional(),
        key: z.string().min(1).optional(),
      })
      .refine(
        ({ cert, key }) => (cert === undefined) === (key === undefined),
        'expected both `cert` and `key`, or none',
      )
      .optional(),
    keepAlive: duration()
      .refine((ms) => ms >= 1000 && ms <= 65_535_000, 'expected 1s to 18h')
      .default(30_000),
    /** How long the broker keeps messages for an agent that is away (MQTT 5; with 3.1.1 the broker decides). */
    sessionExpiry: duration()
      .refine((ms) => ms >= 60_000 && ms <= 49_000 * DAY_MS, 'expected 1m to 49000d')
      .default(7 * DAY_MS),
    /** Messages of QoS 1 and 2 that may be under way at once. */
    receiveMaximum: z.int().min(1).max(65_535).default(1000),
  })
  .refine(({ url, tls }) => tls === undefined || url.startsWith('mqtts:'), {
    path: ['tls'],
    error: 'tls is for mqtts:// only',
  })
  .refine(({ user, passwordFile }) => passwordFile === undefined || user !== undefined, {
    path: ['passwordFile'],
    error: 'a password needs a `user`',
  });
export type MqttSourceConfig = z.output<typeof mqttSourceSchema>;

export function brokerAddress(config: Pick<MqttSourceConfig, 'url'>): { host: string; port: number; tls: boolean } {
  return { ...serverAddress(config.url, DEFAULT_PORTS), tls: config.url.startsWith('mqtts:') };
}
