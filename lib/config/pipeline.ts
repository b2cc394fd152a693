/**
 * pipeline.yaml: what `land`, `compact`, `serve` and `demo` read. The keys are stable; unknown ones are refused by name. Every
 * default carries its reason.
 */
import { z } from 'zod';
import { type ColumnType, decimalOf, haveDistinctNames } from '../table/schema.ts';
import { absoluteUrl, urlProblem } from '../registry.ts';
import { isSplitByPassword } from '../urls.ts';
import { bytes, duration, httpUrl, loadedFrom, readConfig, type Loaded } from './load.ts';

/** A dataset's name is a table's name, a folder's and part of object keys: lower and upper case letters, digits, `_`, `-`, in dotted parts. */
const datasetName = z
  .string()
  .max(200)
  .regex(
    /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/,
    'expected letters, digits, _ and - in parts separated by dots, as plant.vibration',
  );

/** A top-level field of the records. A leading `_` is for the columns that the lander adds. */
const fieldName = z
  .string()
  .min(1)
  .max(255)
  .refine((name) => !name.startsWith('_'), "a field's name must not begin with _: those columns are the lander's");

const HOUR_MS = 3_600_000;
const DAY_MS = 86_400_000;
const SERVE_CONNECTIONS_MAX = 25_000;
const PRIMITIVE =
  /^(boolean|int|long|float|double|string|date|time|timestamp|timestamptz|uuid|binary|decimal\(\d{1,2}, ?\d{1,2}\))$/;
const TYPE_EXPECTED =
  'expected boolean, int, long, float, double, string, date, time, timestamp, timestamptz, uuid, binary, decimal(P, S), ' +
  '{ struct: [{ name, type }] }, { list: TYPE } or { map: { key: TYPE, value: TYPE } }';
/** Deeper types serve only to exhaust a reader's stack. */
const TYPE_DEPTH_MAX = 16;

function isPrimitive(type: string): boolean {
  const decimal = decimalOf(type);
  return PRIMITIVE.test(type) && (decimal === null || (decimal.precision <= 38 && decimal.scale <= decimal.precision));
}

const columnType: z.ZodType<ColumnType> = z.lazy(() =>
  z.union(
    [
      z.string().refine(isPrimitive, TYPE_EXPECTED),
      z.strictObject({
        struct: z
          .array(nestedField)
          .min(1)
          .max(500)
          .refine(haveDistinctNames, 'two fields have the same name, upper and lower case aside'),
      }),
      z.strictObject({ list: columnType }),
      z.strictObject({ map: z.strictObject({ key: z.enum(['string', 'int', 'long']), value: columnType }) }),
    ],
    { error: TYPE_EXPECTED },
  ),
);
const nestedField = z.strictObject({ name: z.string().min(1).max(255), type: columnType });

function depthOf(type: ColumnType): number {
  if (typeof type === 'string') return 0;
  if ('list' in type) return 1 + depthOf(type.list);
  if ('map' in type) return 1 + depthOf(type.map.value);
  return 1 + Math.max(...type.struct.map((field) => depthOf(field.type)));
}

const declaredField = z.strictObject({
  name: fieldName,
  /** By its Iceberg name. */
  type: columnType.refine((type) => depthOf(type) <= TYPE_DEPTH_MAX, `nested deeper than ${TYPE_DEPTH_MAX}`),
  required: z.boolean().default(false),
});

const value = z
  .strictObject({
    format: z.enum(['json', 'avro', 'protobuf']).default('json'),
    /** URL of a schema registry (Confluent's REST API); `https://user:password@host` for basic authentication. */
    registry: z
      .url({ protocol: /^https?$/ })
      .refine((url) => !isSplitByPassword(url), 'in user and password, write / as %2F, ? as %3F, # as %23 and @ as %40')
      .optional(),
  })
  .refine(({ format, registry }) => format === 'json' || registry !== undefined, {
    path: ['registry'],
    error: 'missing: avro and protobuf values name their schema by an id of a registry, expected its URL',
  })
  .refine(({ format, registry }) => format !== 'json' || registry === undefined, {
    path: ['registry'],
    error: 'JSON values have no registry: remove it, or set format to avro or protobuf',
  });

const dataset = z
  .strictObject({
    name: datasetName,
    topic: z.string().min(1).max(249),
    /** Default: the header `event`, else the record's timestamp. */
    eventTime: fieldName.optional(),
    sort: z.array(fieldName).max(16).default([]),
    dedup: z
      .union([z.enum(['identity', 'none']), z.strictObject({ key: z.array(z.string().min(1)).min(1).max(16) })], {
        error: 'expected identity, none or { key: [COLUMN, ...] }',
      })
      .default('identity'),
    schema: z
      .union([z.literal('infer'), z.array(declaredField).min(1).max(500)], {
        error: 'expected infer, or a list of { name, type, required }',
      })
      .superRefine((schema, context) => {
        if (schema === 'infer') return;
        const names = new Map<string, string>();
        for (const [index, { name }] of schema.entries()) {
          const other = names.get(name.toLowerCase());
          names.set(name.toLowerCase(), name);
          if (other === undefined) continue;
          const message = other === name ? `${name} is declared twice` : `${other} and ${name} differ only in case`;
          context.addIssue({ code: 'custom', message, path: [index, 'name'] });
        }
      })
      .default('infer'),
    value: value.default({ format: 'json' }),
    /** Which finished files of an hour are rewritten (docs/decisions/0057). */
    compaction: z
      .strictObject({
        /** Default: `compactor.targetBytes`. */
        targetBytes: bytes().optional(),
        /** Shares of the target; Iceberg's own window, outside of which files are merged or split. */
        sizeMin: z.number().min(0).max(1).default(0.75),
        sizeMax: z.number().min(1).max(100).default(1.8),
        /** Shares of a file's rows. 0: none that was deleted, or came twice, stays in the files that directories show. */
        deleteRatio: z.number().min(0).max(1).default(0),
        duplicateRatio: z.number().min(0).max(1).default(0),
        /** A late byte rewrites at most ten others. */
        mergeRatio: z.number().min(0).max(1).default(0.1),
      })
      .prefault({}),
    /** Readings from further ahead are quarantined: a clock that is set to any time makes a directory and a file of each reading. A month of forecasts fits. */
    maxFuture: duration().default(30 * DAY_MS),
    /** The same for what is older; default: nothing is, whoever lands an archive has old readings. */
    maxPast: duration().optional(),
    /** Hours that ended longer ago are dropped from the table and its listings; default: nothing is. */
    retention: duration()
      .refine((ms) => ms >= HOUR_MS, 'expected at least 1h: whole hours are dropped')
      .optional(),
  })
  .superRefine(({ eventTime, sort, dedup, schema }, context) => {
    if (schema === 'infer') return;
    const declared = new Set(schema.map(({ name }) => name));
    const check = (name: string, ...path: (string | number)[]): void => {
      if (declared.has(name) || name.startsWith('_')) return;
      context.addIssue({ code: 'custom', message: `schema declares no column ${name}`, path });
    };
    if (eventTime !== undefined) check(eventTime, 'eventTime');
    for (const [index, name] of sort.entries()) check(name, 'sort', index);
    if (typeof dedup !== 'string') for (const [index, name] of dedup.key.entries()) check(name, 'dedup', 'key', index);
  });
export type DatasetConfig = z.output<typeof dataset>;

const unique = (datasets: readonly DatasetConfig[], key: 'name' | 'topic'): boolean =>
  new Set(datasets.map((entry) => entry[key])).size === datasets.length;

/** As a Kubernetes namespace. Without a dot, so that no tenant's names begin like another's: `team-a.x` is never of `team-a-b`. */
const tenantName = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'expected 1 to 63 lower case letters, digits and -, as team-a');

const roleValues = (name: string) => z.array(z.string()).default([`penstock:${name}`]);

const oidc = z.strictObject({
  /** As the provider writes itself into its tokens. Plain HTTP only on this machine. */
  issuer: z
    .url()
    .refine(
      (url) => /^https:|^http:\/\/(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:|\/|$)/.test(url),
      'expected an https URL',
    )
    .refine((url) => !url.includes('@'), 'a user and password do not belong into this URL'),
  audience: z.string().min(1),
  /** The claim of the token that says who somebody is to us: a list, or words with spaces between. */
  claim: z.string().min(1).default('roles'),
  /** The values of that claim that make a viewer, an operator, an administrator. */
  roles: z
    .strictObject({ admin: roleValues('admin'), operator: roleValues('operator'), viewer: roleValues('viewer') })
    .prefault({}),
  /** Which tenant somebody is of: a claim (a list: the way to a nested one), and its value for the platform's own people, who see all tenants. */
  tenant: z
    .strictObject({
      claim: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(8)]),
      platform: z.string().min(1).optional(),
    })
    .optional(),
});

export const pipelineSchema = z.strictObject({
  log: z.string(),
  store: z.string(),
  meta: z.string(),
  datasets: z
    .array(dataset)
    .min(1)
    .refine((datasets) => unique(datasets, 'name'), 'two datasets have the same name')
    .refine((datasets) => unique(datasets, 'topic'), 'two datasets read the same topic'),
  lander: z
    .strictObject({
      /** A minute of data is small enough to wait for and large enough that an hour is 60 files, not thousands. */
      commitEvery: duration().default(60_000),
      /** What one commit holds in memory is a small multiple of this. */
      fileBytes: bytes().default(128_000_000),
    })
    .default({ commitEvery: 60_000, fileBytes: 128_000_000 }),
  compactor: z
    .strictObject({
      /** Iceberg's own default target. */
      targetBytes: bytes().default(512_000_000),
      /** Most late readings come within minutes. */
      lag: duration().default(600_000),
      memoryBytes: bytes().default(1_000_000_000),
      /** Longer than a training job's epoch, so that what it globbed stays openable. */
      keepReplaced: duration().default(86_400_000),
    })
    .default({ targetBytes: 512_000_000, lag: 600_000, memoryBytes: 1_000_000_000, keepReplaced: 86_400_000 }),
  /** For the money in `cost` and `compact --dry-run`; default: amounts are not shown. `gets`, `puts`: a thousand requests. `nodes`: by PENSTOCK_NODE_TYPE. */
  prices: z
    .strictObject({
      currency: z.string().min(1).max(10).default('USD'),
      cpuHour: z.number().min(0),
      gbHour: z.number().min(0).default(0),
      gets: z.number().min(0).default(0),
      puts: z.number().min(0).default(0),
      nodes: z
        .record(z.string(), z.strictObject({ minute: z.number().min(0), spotMinute: z.number().min(0).optional() }))
        .default({}),
    })
    .optional(),
  /** Where the tables are: with the other records in `meta`, or in another program's Iceberg REST catalog. */
  catalog: z
    .union(
      [
        z.literal('embedded'),
        httpUrl,
        z.strictObject({
          uri: httpUrl,
          warehouse: z.string().min(1).optional(),
          tokenFile: z.string().min(1).optional(),
          /** CLIENT_ID:CLIENT_SECRET, for OAuth. */
          credentialFile: z.string().min(1).optional(),
          oauthUri: httpUrl.optional(),
          scope: z.string().min(1).optional(),
          /** The objects of its tables are reached with credentials that it hands out. */
          accessDelegation: z.literal('vended-credentials').optional(),
        }),
      ],
      {
        error:
          'expected embedded, the URL of an Iceberg REST catalog, or { uri, warehouse, tokenFile | credentialFile, oauthUri, scope, accessDelegation }',
      },
    )
    .transform((catalog) => (catalog === 'embedded' ? null : typeof catalog === 'string' ? { uri: catalog } : catalog))
    .refine((catalog) => catalog?.tokenFile === undefined || catalog.credentialFile === undefined, {
      error: 'a token and a credential to get one with are given: tokenFile or credentialFile',
    })
    .default(null),
  /** For topics we create. */
  topics: z
    .strictObject({
      partitions: z.int().min(1).max(10_000).default(3),
      /** Kafka's own default: a week to notice that nothing lands. */
      retention: duration().default(604_800_000),
    })
    .default({ partitions: 3, retention: 604_800_000 }),
  serve: z
    .strictObject({
      port: z.int().min(0).max(65_535).default(8080),
      /** 20,000 agents that wait for a change of their configuration, and who looks at them. */
      maxConnections: z.int().min(10).max(1_000_000).default(SERVE_CONNECTIONS_MAX),
      tls: z.strictObject({ cert: z.string(), key: z.string() }).optional(),
      tokens: z.string().optional(),
      oidc: oidc.optional(),
      /** What begins with the name of a tenant and a dot (datasets, agents, groups) is that tenant's and hidden from the others. */
      tenants: z.array(tenantName).max(1000).default([]),
      connections: z
        .strictObject({
          /** A file with the keys that seal credentials, 32 bytes in base64 a line, the first for new ones; instead of PENSTOCK_SEAL_KEYS. */
          keys: z.string().min(1).optional(),
          /** Where tenants may connect to: names of hosts, or `*.example.com`. Nowhere by default: the platform's network is not theirs. */
          hosts: z.array(z.string().min(1).max(255)).max(1000).default([]),
        })
        .default({ hosts: [] }),
    })
    .default({ port: 8080, maxConnections: SERVE_CONNECTIONS_MAX, tenants: [], connections: { hosts: [] } }),
});
export type PipelineConfig = z.output<typeof pipelineSchema>;

/** Reads pipeline.yaml. Throws `config` with every problem, each with line, key and what was expected; the URLs of its ports are checked, not opened. */
export async function loadPipelineConfig(path: string): Promise<Loaded<PipelineConfig>> {
  return loadedFrom(await readConfig(path), path, pipelineSchema, async (config, baseDir) => {
    const ports = (['log', 'store', 'meta'] as const).map(async (port) => {
      const message = await urlProblem(port, absoluteUrl(config[port], baseDir));
      return message === null ? [] : [{ path: [port], message }];
    });
    return (await Promise.all(ports)).flat();
  });
}
