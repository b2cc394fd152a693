/**
 * agent.yaml: what `penstock agent` reads. The keys are stable; unknown ones are refused by name. Every default carries its reason.
 */
import { z } from 'zod';
import { bytes, duration, httpUrl } from '../lib/config/load.ts';
import { eventTime, listenAddress, priority, topic } from './config-parts.ts';
import { httpSourceSchema } from './sources/http/config.ts';
import { journaldSourceSchema } from './sources/journald/config.ts';
import { modbusSourceSchema } from './sources/modbus/config.ts';
import { mqttSourceSchema } from './sources/mqtt/config.ts';
import { opcuaSourceSchema } from './sources/opcua/config.ts';
import { syslogSourceSchema } from './sources/syslog/config.ts';
import { clashesOf, receiptsPerSource } from './sources/exclusive.ts';
import { rulesSchema } from './rules/rule-config.ts';
import { segmentBytesFor } from './spool/segment-files.ts';
import { durableStateBytesMax, transformsSchema } from './transforms/transform-config.ts';

const SOURCES = ['host', 'file', 'http', 'mqtt', 'syslog', 'journald', 'modbus', 'opcua', 'simulator'];
/** The identity travels in every record's headers. */
const AGENT_ID_LENGTH_MAX = 64;
const MIB = 2 ** 20;

const hostSource = z.strictObject({
  type: z.literal('host'),
  /** Fine enough to see a load peak, and some thirty small readings a time are nothing for a link. */
  interval: duration()
    .refine((ms) => ms >= 100, 'expected at least 100ms')
    .default(10_000),
  to: topic.default('host'),
  priority,
});

const multiline = z
  .strictObject({
    /** A line that matches begins a reading. */
    start: z.string().min(1).optional(),
    /** A line that matches belongs to the one before. */
    continuation: z.string().min(1).optional(),
    /** Above the pauses of a program that writes one message. */
    timeout: duration().default(5000),
    /** Above any stack trace that somebody reads. */
    maxLines: z.int().min(2).max(100_000).default(1000),
    maxBytes: bytes()
      .refine((size) => size >= 64 && size <= MIB, 'expected 64 B to 1MiB')
      .default(MIB / 2),
  })
  .refine(({ start, continuation }) => (start === undefined) !== (continuation === undefined), {
    error: 'expected `start` or `continuation`, one of them',
  });

const fileSource = z
  .strictObject({
    type: z.literal('file'),
    /** A path or a glob. */
    path: z.string().min(1),
    /** Globs of files that are left alone. */
    exclude: z.array(z.string().min(1)).max(100).optional(),
    /** By the name: `.csv` is CSV with a header line, everything else one JSON value a line. `text` is any line; `cri` and `docker` are containers' logs. */
    format: z.enum(['ndjson', 'csv', 'text', 'cri', 'docker']).optional(),
    /** Several lines are one reading. */
    multiline: multiline.optional(),
    /** A field of the value, or `path`. Without it, readings have no key and go to the partitions in turn. */
    sensor: z.string().min(1).optional(),
    eventTime,
    to: topic,
    priority,
    /** A longer line is more likely a broken file than a reading, and no broker takes a larger record by default. */
    maxLineBytes: bytes()
      .refine((size) => size >= 64 && size <= 64 * MIB, 'expected 64 B to 64MiB')
      .default(MIB),
    /** Of a container's message, which its runtime writes in pieces of 16 KiB; as much as `multiline` joins. */
    maxMessageBytes: bytes()
      .refine((size) => size >= 64 && size <= MIB, 'expected 64 B to 1MiB')
      .optional(),
    /** What was written before the agent first saw the file: readings too, so nothing is skipped unless asked for. */
    start: z.enum(['beginning', 'end']).default('beginning'),
    /** How often files are looked at: the latency of a line, against a few system calls per file. */
    poll: duration()
      .refine((ms) => ms >= 10, 'expected at least 10ms')
      .default(250),
  })
  .refine(({ start, format, path }) => start === 'beginning' || !isCsv(format, path), {
    path: ['start'],
    error: 'a CSV file must be read from its beginning, where its header is',
  })
  .refine(({ multiline: joined, format, path }) => joined === undefined || !isCsv(format, path), {
    path: ['multiline'],
    error: 'a CSV file has one reading a line',
  })
  .refine(({ format, maxMessageBytes }) => maxMessageBytes === undefined || isContainerLog(format), {
    path: ['maxMessageBytes'],
    error: 'only the formats cri and docker have messages of several lines: expected `maxLineBytes` here',
  })
  .refine(({ format, sensor }) => format !== 'text' || sensor === undefined || sensor === 'path', {
    path: ['sensor'],
    error: 'text has no fields: expected `path`, or none',
  });

function isContainerLog(format: string | undefined): boolean {
  return format === 'cri' || format === 'docker';
}

function isCsv(format: string | undefined, path: string): boolean {
  return format === 'csv' || (format === undefined && path.endsWith('.csv'));
}

const simulatorSource = z.strictObject({
  type: z.literal('simulator'),
  /** Readings per second. */
  rate: z.number().positive().max(1_000_000).default(100),
  sensors: z.int().min(1).max(1_000_000).default(100),
  /** The same seed gives the same values. */
  seed: z.int().nonnegative().default(1),
  /** Ends after that many readings over the life of the data directory. */
  count: z.int().positive().optional(),
  to: topic.default('simulated'),
  priority,
});

const source = z.discriminatedUnion(
  'type',
  [
    hostSource,
    fileSource,
    httpSourceSchema,
    mqttSourceSchema,
    syslogSourceSchema,
    journaldSourceSchema,
    modbusSourceSchema,
    opcuaSourceSchema,
    simulatorSource,
  ],
  {
    error: (issue) => {
      const given =
        typeof issue.input === 'object' && issue.input !== null && 'type' in issue.input ? issue.input.type : undefined;
      const known = `expected one of ${SOURCES.join(', ')}`;
      if (typeof given !== 'string') return `a source needs a type: ${known}`;
      return `'${given}' is not a type of source: ${known}`;
    },
  },
);
export type SourceConfig = z.output<typeof source>;
export type HostSourceConfig = z.output<typeof hostSource>;
export type FileSourceConfig = z.output<typeof fileSource>;
export type SimulatorSourceConfig = z.output<typeof simulatorSource>;

const keysSchema = z.strictObject({
  agent: z.strictObject({
    id: z
      .string()
      .min(1)
      .max(AGENT_ID_LENGTH_MAX)
      .regex(/^[\x21-\x7e]+$/, 'expected printable ASCII without spaces: the id travels in record headers'),
    /** Beside the configuration, like the pipeline's. */
    dataDir: z.string().min(1).default('./data/agent'),
    /** Without it, the agent serves no health and metrics. */
    listen: listenAddress.optional(),
  }),
  /** The control plane, where it can be reached. */
  control: z.strictObject({ url: httpUrl, tokenFile: z.string().optional() }).optional(),
  log: z.string().regex(/^(file|kafka):/, 'expected the URL of a log, as file:./data/log or kafka://127.0.0.1:9092'),
  spool: z
    .strictObject({
      /** Days of a hundred readings a second, and a share of the smallest node disks. */
      maxBytes: bytes()
        .refine((size) => size >= MIB, 'expected at least 1MiB')
        .default(10_000_000_000),
      /** The only policy that never gives up what was accepted. */
      whenFull: z.enum(['reject', 'dropOldest', 'dropLowestPriority']).default('reject'),
      /** An acknowledgement means the disk has it; one sync serves everything that arrived during the last one. */
      fsync: z.enum(['group']).default('group'),
    })
    .default({ maxBytes: 10_000_000_000, whenFull: 'reject', fsync: 'group' }),
  uplink: z
    .strictObject({
      /** 0: no limit. */
      bytesPerSecond: bytes().default(0),
      /** Of 24 hours from the first byte; 0: no limit. */
      bytesPerDay: bytes().default(0),
      /** After an outage the present is worth more than the past. */
      order: z.enum(['liveFirst', 'oldestFirst']).default('liveFirst'),
      /** By topic: what waited longer than this is given up, and recorded. Nothing is, unless it is said. */
      maxAge: z.record(topic, duration()).default({}),
    })
    .default({ bytesPerSecond: 0, bytesPerDay: 0, order: 'liveFirst', maxAge: {} }),
  /** Where the environment names a receiver (OTEL_EXPORTER_OTLP_ENDPOINT): one reading of each topic is traced that often. */
  traces: z.strictObject({ every: duration().default(60_000) }).default({ every: 60_000 }),
  sources: z
    .array(source)
    .min(1, 'an agent without a source has nothing to do')
    .max(1000)
    .superRefine((sources, context) => {
      for (const { index, key, message } of clashesOf(sources)) {
        context.addIssue({ code: 'custom', path: [index, key], message });
      }
    }),
  transforms: transformsSchema,
  rules: rulesSchema,
});
export type AgentConfig = z.output<typeof keysSchema>;

/** What a rule may call a source. */
export function namesOf(source: SourceConfig): readonly string[] {
  return [source.type, ...('to' in source ? [source.to] : [])];
}

/** What the keys need of each other. */
export const agentSchema = keysSchema.superRefine((config, context) => {
  const { sources, transforms, spool } = config;
  const bytesMax = Math.floor(segmentBytesFor(spool.maxBytes) / 2);
  const needed = durableStateBytesMax(transforms);
  if (needed > bytesMax) {
    const message = `what the windows and swinging doors of all sensors hold back can take ${needed} bytes, at most ${bytesMax} with this spool.maxBytes: raise it, or lower \`sensors\` of the transforms`;
    context.addIssue({ code: 'custom', path: ['transforms'], message });
  }
  const sourceNames = new Set(sources.flatMap(namesOf));
  for (const [index, rule] of config.rules.entries()) {
    for (const name of rule.do.disable?.filter((each) => !sourceNames.has(each)) ?? []) {
      const message = `no source is called ${name}: expected the \`to\` or the \`type\` of one, as ${[...sourceNames].join(', ')}`;
      context.addIssue({ code: 'custom', path: ['rules', index, 'do', 'disable'], message });
    }
  }
  sources.forEach((entry, index) => {
    const isTcp = entry.type === 'http' || (entry.type === 'syslog' && entry.transport === 'tcp');
    if (!isTcp || entry.listen !== config.agent.listen) return;
    const message = 'the agent itself listens there (agent.listen): expected another port';
    context.addIssue({ code: 'custom', path: ['sources', index, 'listen'], message });
  });
  const keysMax = receiptsPerSource(config);
  sources.forEach((entry, index) => {
    if (entry.type !== 'http' || (entry.idempotencyKeys ?? 0) <= keysMax) return;
    const message = `this spool.maxBytes has room for ${keysMax} keys of each source: expected at most that`;
    context.addIssue({ code: 'custom', path: ['sources', index, 'idempotencyKeys'], message });
  });
});
