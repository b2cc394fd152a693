/**
 * The Iceberg REST catalog as a function from request to answer: `answer` knows paths, methods and bodies, and neither sockets nor
 * a server, so that `penstock catalog` and the control plane serve the same.
 *
 * Source: apache/iceberg `open-api/rest-catalog-open-api.yaml`. Not there, and not named in `endpoints`: views, server-side scan
 * planning, multi-table transactions, credentials, OAuth tokens. Renaming is refused by name.
 * Limits: `pageSize` up to PAGE_MAX; the body is bounded by the server.
 */
import { KEEPS_OBJECTS, SPARK_READS } from '../client-properties.ts';
import { currentSnapshot } from '../metadata.ts';
import type { TableMetadata } from '../metadata.ts';
import type { LakeContext } from '../table.ts';
import {
  childNamespaces,
  createNamespace,
  dropNamespace,
  loadNamespace,
  tablesIn,
  updateNamespace,
} from './namespaces.ts';
import {
  commitTableSchema,
  createNamespaceSchema,
  createTableSchema,
  parseBody,
  registerTableSchema,
  updateNamespaceSchema,
} from './requests.ts';
import { commitTableOf, createTableOf, dropTable, loadTableOf, registerTable } from './rest-catalog.ts';
import type { LoadedTable } from './rest-catalog.ts';
import { RestError } from './rest-error.ts';
import { isHourTable } from './table-builder.ts';

/** Separates the levels of a namespace in a path. */
const LEVELS = '\u001f';
const PAGE_MAX = 10_000;

export interface RestRequest {
  readonly method: string;
  /** Path and query behind the mount point, as `/v1/config?warehouse=w`. */
  readonly url: string;
  /** '' without one. */
  readonly body: string;
}

export interface RestAnswer {
  readonly status: number;
  /** undefined: no content. May hold bigints: written by `stringifyJson`. */
  readonly body?: unknown;
  /** The route's template, for metrics. */
  readonly route: string;
}

interface Call {
  readonly lake: LakeContext;
  readonly namespace: readonly string[];
  readonly table: string;
  readonly query: URLSearchParams;
  readonly body: string;
}

interface Route {
  readonly method: string;
  /** With {namespace} and {table}. */
  readonly path: string;
  readonly pattern: RegExp;
  readonly run: (call: Call) => Promise<{ readonly status: number; readonly body?: unknown }>;
}

const NAMESPACE = '/v1/namespaces/{namespace}';
const TABLE = `${NAMESPACE}/tables/{table}`;
const NO_CONTENT = { status: 204 } as const;

const routes: readonly Route[] = [
  route('GET', '/v1/config', async ({ lake }) => ok(configOf(lake))),
  route('GET', '/v1/namespaces', async ({ lake, query }) => {
    const parent = query.get('parent');
    const names = await childNamespaces(lake, parent === null || parent === '' ? null : parent.split(LEVELS));
    const { page, next } = pageOf(names, (levels) => levels.join(LEVELS), query);
    return ok({ namespaces: page, ...next });
  }),
  route('POST', '/v1/namespaces', async ({ lake, body }) => {
    const { namespace, properties } = parseBody(createNamespaceSchema, body);
    await createNamespace(lake, namespace, properties);
    return ok({ namespace, properties });
  }),
  route('GET', NAMESPACE, async ({ lake, namespace }) =>
    ok({ namespace, properties: await loadNamespace(lake, namespace) }),
  ),
  route('HEAD', NAMESPACE, async ({ lake, namespace }) => {
    await loadNamespace(lake, namespace);
    return NO_CONTENT;
  }),
  route('DELETE', NAMESPACE, async ({ lake, namespace }) => {
    await dropNamespace(lake, namespace);
    return NO_CONTENT;
  }),
  route('POST', `${NAMESPACE}/properties`, async ({ lake, namespace, body }) => {
    const { removals, updates } = parseBody(updateNamespaceSchema, body);
    return ok(await updateNamespace(lake, namespace, removals, updates));
  }),
  route('GET', `${NAMESPACE}/tables`, async ({ lake, namespace, query }) => {
    const { page, next } = pageOf(await tablesIn(lake, namespace), (name) => name, query);
    return ok({ identifiers: page.map((name) => ({ namespace, name })), ...next });
  }),
  route('POST', `${NAMESPACE}/tables`, async ({ lake, namespace, body }) =>
    ok(tableBody(lake, await createTableOf(lake, namespace, parseBody(createTableSchema, body)))),
  ),
  route('POST', `${NAMESPACE}/register`, async ({ lake, namespace, body }) => {
    const request = parseBody(registerTableSchema, body);
    if (request.overwrite === true) throw new RestError('UnsupportedOperationException', 'overwrite is not supported');
    return ok(tableBody(lake, await registerTable(lake, namespace, request.name, request['metadata-location'])));
  }),
  route('GET', TABLE, async ({ lake, namespace, table, query }) => {
    const { metadata, metadataLocation } = await loadTableOf(lake, namespace, table);
    const shown = query.get('snapshots') === 'refs' ? withRefsOnly(metadata) : metadata;
    return ok(tableBody(lake, { metadata: shown, metadataLocation }));
  }),
  route('HEAD', TABLE, async ({ lake, namespace, table }) => {
    await loadTableOf(lake, namespace, table);
    return NO_CONTENT;
  }),
  route('POST', TABLE, async ({ lake, namespace, table, body }) => {
    const committed = await commitTableOf(lake, namespace, table, parseBody(commitTableSchema, body));
    const { metadata, metadataLocation } = committed;
    return ok({ 'metadata-location': metadataLocation, metadata: shownMetadata(metadata) });
  }),
  // `purgeRequested` changes nothing: other things than the table may refer to its objects.
  route('DELETE', TABLE, async ({ lake, namespace, table }) => {
    await dropTable(lake, namespace, table);
    return NO_CONTENT;
  }),
  // What a client tells of its scans and commits; it is not kept.
  route('POST', `${TABLE}/metrics`, async ({ lake, namespace, table }) => {
    await loadTableOf(lake, namespace, table);
    return NO_CONTENT;
  }),
  route('POST', '/v1/tables/rename', () => {
    throw new RestError(
      'UnsupportedOperationException',
      "a table cannot be renamed: its name is its dataset's, its folder's and its topic's",
    );
  }),
];

/** Throws `RestError` and `PenstockError`; `toRestError` makes an answer of either. */
export async function answer(lake: LakeContext, request: RestRequest): Promise<RestAnswer> {
  const url = new URL(request.url, 'http://catalog');
  let isPath = false;
  for (const { method, path, pattern, run } of routes) {
    const match = pattern.exec(url.pathname);
    if (match === null) continue;
    isPath = true;
    if (method !== request.method) continue;
    const call: Call = {
      lake,
      namespace: decode(match.groups?.['namespace']).split(LEVELS),
      table: decode(match.groups?.['table']),
      query: url.searchParams,
      body: request.body,
    };
    return { ...(await run(call)), route: `${method} ${path}` };
  }
  if (isPath)
    throw new RestError('UnsupportedOperationException', `${request.method} is not supported for ${url.pathname}`);
  throw new RestError('NotFoundException', `there is no ${url.pathname}`);
}

function route(method: string, path: string, run: Route['run']): Route {
  const pattern = new RegExp(`^${path.replace(/\{(\w+)\}/g, '(?<$1>[^/]+)')}/?$`);
  return { method, path, pattern, run };
}

function decode(part: string | undefined): string {
  try {
    return decodeURIComponent(part ?? '');
  } catch (error) {
    throw new RestError('BadRequestException', 'the path is not percent-encoded UTF-8', { cause: error });
  }
}

const ok = (body: unknown): { readonly status: number; readonly body: unknown } => ({ status: 200, body });

function pageOf<T>(
  items: readonly T[],
  key: (item: T) => string,
  query: URLSearchParams,
): { readonly page: readonly T[]; readonly next: { readonly 'next-page-token'?: string | null } } {
  const after = query.get('pageToken') ?? '';
  const rest = items.filter((item) => after === '' || key(item) > after);
  const size = query.get('pageSize');
  if (size === null) return { page: rest, next: {} };
  if (!/^\d{1,9}$/.test(size) || Number(size) === 0) {
    throw new RestError('BadRequestException', 'pageSize: expected a number from 1');
  }
  const page = rest.slice(0, Math.min(Number(size), PAGE_MAX));
  const last = page.at(-1);
  const isMore = page.length < rest.length && last !== undefined;
  return { page, next: { 'next-page-token': isMore ? key(last) : null } };
}

function configOf(lake: LakeContext): unknown {
  const endpoints = routes
    .filter(({ path }) => path !== '/v1/config' && path !== '/v1/tables/rename')
    .map(({ method, path }) => `${method} ${path.replace('/v1/', '/v1/{prefix}/')}`);
  return { defaults: fileIoConfig(lake), overrides: {}, endpoints };
}

function tableBody(lake: LakeContext, { metadata, metadataLocation }: LoadedTable): unknown {
  return {
    ...(metadataLocation === null ? {} : { 'metadata-location': metadataLocation }),
    metadata: shownMetadata(metadata),
    config: fileIoConfig(lake),
  };
}

/** With what other programs must know of a table of the lander. In every answer: clients go on with what a commit answers. */
function shownMetadata(metadata: TableMetadata): TableMetadata {
  if (!isHourTable(metadata)) return metadata;
  return { ...metadata, properties: { ...SPARK_READS, ...metadata.properties, ...KEEPS_OBJECTS } };
}

/** How clients reach the objects, without credentials: those are their own. */
function fileIoConfig(lake: LakeContext): Readonly<Record<string, string>> {
  const url = new URL(lake.store.url);
  if (url.protocol !== 's3:') return {};
  const [endpoint, region] = [url.searchParams.get('endpoint'), url.searchParams.get('region')];
  return {
    ...(endpoint === null ? {} : { 's3.endpoint': endpoint, 's3.path-style-access': 'true' }),
    ...(region === null ? {} : { 's3.region': region, 'client.region': region }),
  };
}

/** `snapshots=refs`: only those that a branch or tag names, for tables with long histories. */
function withRefsOnly(metadata: TableMetadata): TableMetadata {
  const named = new Set(Object.values(metadata.refs).map((ref) => ref['snapshot-id']));
  const current = currentSnapshot(metadata);
  if (current !== null) named.add(current['snapshot-id']);
  return { ...metadata, snapshots: metadata.snapshots.filter((snapshot) => named.has(snapshot['snapshot-id'])) };
}
