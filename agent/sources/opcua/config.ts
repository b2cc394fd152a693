/** The keys of `{ type: opcua }`. */
import { z } from 'zod';
import { duration } from '../../../lib/config/load.ts';
import { priority, topic } from '../../config-parts.ts';

const NODE_ID = /^(?:(?:ns=\d{1,5}|nsu=[^;]+);)?(?:i=\d{1,10}|s=.+|g=[0-9a-fA-F-]{36}|b=[A-Za-z0-9+/]+={0,2})$/;
const QUEUE_SIZE_MAX = 10_000;

const endpointUrl = z.string().superRefine((text, context) => {
  const url = URL.parse(text);
  const problem =
    url?.protocol !== 'opc.tcp:' || url.hostname === ''
      ? 'expected the URL of a server, as opc.tcp://192.168.0.20:4840'
      : url.username !== '' || url.password !== ''
        ? 'a user and password do not belong into the URL: expected the keys `user` and `passwordFile`'
        : null;
  if (problem !== null) context.addIssue({ code: 'custom', message: problem });
});

/** By how much a value must differ from the last one that was sent: a number, or a share of the node's EURange in percent. */
const deadband = z
  .number()
  .positive()
  .or(z.string().regex(/^\d{1,2}(?:\.\d+)?%$/, "expected a number, or a percentage of the node's range as '2%'"));

const sampling = z.literal(0).or(duration().refine((ms) => ms <= 86_400_000, 'expected 0 (each change) to 24h'));
const queueSize = z.int().min(1).max(QUEUE_SIZE_MAX);

const node = z.strictObject({
  /** `nsu=` names the namespace by its URI, which stays when its index changes. */
  node: z.string().regex(NODE_ID, 'expected a node id, as ns=2;s=Line1.Temperature, nsu=urn:plant;i=1001 or i=2258'),
  /** The key of the records and a field of the value. */
  sensor: z.string().min(1).max(256),
  /** Stands in the readings as it is. */
  unit: z.string().min(1).max(64).optional(),
  samplingInterval: sampling.optional(),
  queueSize: queueSize.optional(),
  deadband: deadband.optional(),
});

const security = z.strictObject({
  policy: z.enum(['Basic256Sha256', 'Aes128_Sha256_RsaOaep', 'Aes256_Sha256_RsaPss']),
  mode: z.enum(['Sign', 'SignAndEncrypt']).default('SignAndEncrypt'),
  /** What the server is expected to show. */
  serverCert: z.string().min(1),
  /** Default: the agent makes itself one in its data directory. */
  cert: z.string().min(1).optional(),
  key: z.string().min(1).optional(),
});

export const opcuaSourceSchema = z
  .strictObject({
    type: z.literal('opcua'),
    url: endpointUrl,
    to: topic,
    priority,
    /** Without it nothing is signed and encrypted. */
    security: security
      .refine(
        ({ cert, key }) => (cert === undefined) === (key === undefined),
        'expected both `cert` and `key`, or none',
      )
      .optional(),
    user: z.string().min(1).optional(),
    passwordFile: z.string().min(1).optional(),
    /** How often the server sends what it has sampled. */
    publishingInterval: duration()
      .refine((ms) => ms >= 10 && ms <= 3_600_000, 'expected 10ms to 1h')
      .default(1000),
    /** How often the server looks at a value, for nodes that name none. 0: whenever it changes, where the server can. */
    samplingInterval: sampling.default(1000),
    /** Of one node: values that the server keeps until they are sent. Above it the oldest is lost, and the next one says so. */
    queueSize: queueSize.default(100),
    deadband: deadband.optional(),
    /** A server that has said nothing for four times that is left. */
    keepAlive: duration()
      .refine((ms) => ms >= 100 && ms <= 600_000, 'expected 100ms to 10m')
      .default(10_000),
    /** How long the server is asked to keep the subscription for an agent that is away. */
    lifetime: duration()
      .refine((ms) => ms >= 10_000 && ms <= 86_400_000, 'expected 10s to 24h')
      .default(3_600_000),
    nodes: z
      .array(node)
      .min(1, 'expected at least one node')
      .max(10_000)
      .superRefine((nodes, context) => {
        const names = new Set<string>();
        nodes.forEach(({ sensor }, index) => {
          const message = `another node is called ${sensor}`;
          if (names.has(sensor)) context.addIssue({ code: 'custom', path: [index, 'sensor'], message });
          names.add(sensor);
        });
      }),
  })
  .refine(({ user, passwordFile }) => passwordFile === undefined || user !== undefined, {
    path: ['passwordFile'],
    error: 'a password needs a `user`',
  });
export type OpcuaSourceConfig = z.output<typeof opcuaSourceSchema>;
