/** The Iceberg REST catalog through its HTTP API: what clients rely on, races, and what a restart leaves. */
import { expect, onTestFinished, test } from 'vitest';
import { commitTable } from '../../lib/table/commit.ts';
import { createTable } from '../../lib/table/table.ts';
import { openRestServer } from '../../lib/table/rest/rest-server.ts';
import { ensureHourDirectories } from '../../lib/volume/lake-directories.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { loadLive } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { tempDir } from '../support/temp.ts';
import { dataFile, mustLoad, openLake, SCHEMA, TABLE } from './lake.ts';

interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}
type Call = (method: string, path: string, body?: unknown) => Promise<Answer>;

async function openCatalog(folder = tempDir('lake'), token: string | null = null) {
  const lake = await openLake(folder);
  const server = await openRestServer(lake, { host: '127.0.0.1', port: 0, token, onProblem: () => undefined });
  onTestFinished(() => server.close());
  const call: Call = async (method, path, body) => {
    const init = body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) };
    const response = await fetch(`${server.url}${path}`, { method, ...init });
    const text = await response.text();
    return { status: response.status, body: text === '' ? {} : (JSON.parse(text) as Answer['body']) };
  };
  return { lake, server, call };
}

const request = {
  name: 't',
  schema: {
    type: 'struct',
    fields: [
      { id: 0, name: 'x', required: false, type: 'long' },
      {
        id: 1,
        name: 'l',
        required: false,
        type: { type: 'list', 'element-id': 2, element: 'string', 'element-required': false },
      },
    ],
  },
};
const TABLE_PATH = '/v1/namespaces/plant/tables/vibration';
const refused = (type: string, code: number): object => ({ status: code, body: { error: { type, code } } });

test('namespaces come with properties, list their levels, and are dropped only when empty', async () => {
  const { call } = await openCatalog();
  expect((await call('POST', '/v1/namespaces', { namespace: ['a', 'b'], properties: { k: 'v' } })).status).toBe(200);
  expect(await call('POST', '/v1/namespaces', { namespace: ['a', 'b'] })).toMatchObject(
    refused('AlreadyExistsException', 409),
  );
  expect((await call('GET', '/v1/namespaces')).body).toEqual({ namespaces: [['a'], ['default']] });
  expect((await call('GET', '/v1/namespaces?parent=a')).body).toEqual({ namespaces: [['a', 'b']] });
  expect((await call('GET', '/v1/namespaces?pageSize=1')).body).toMatchObject({
    namespaces: [['a']],
    'next-page-token': 'a',
  });
  const changed = await call('POST', '/v1/namespaces/a%1Fb/properties', {
    removals: ['k', 'none'],
    updates: { n: '1' },
  });
  expect(changed.body).toEqual({ updated: ['n'], removed: ['k'], missing: ['none'] });
  expect((await call('GET', '/v1/namespaces/a%1Fb')).body).toMatchObject({ properties: { n: '1' } });
  expect(await call('DELETE', '/v1/namespaces/a')).toMatchObject(refused('NamespaceNotEmptyException', 409));
  expect((await call('DELETE', '/v1/namespaces/a%1Fb')).status).toBe(204);
  expect(await call('GET', '/v1/namespaces/a%1Fb')).toMatchObject(refused('NoSuchNamespaceException', 404));
});

test('a table gets fresh ids, survives a restart, is dropped without losing an object, and registered again', async () => {
  const { lake, call } = await openCatalog();
  await call('POST', '/v1/namespaces', { namespace: ['n'] });
  const created = await call('POST', '/v1/namespaces/n/tables', request);
  expect(created.body).toMatchObject({
    metadata: {
      'last-column-id': 3,
      schemas: [{ fields: [{ id: 1 }, { id: 2, type: { 'element-id': 3 } }] }],
      properties: {},
    },
  });
  expect(await call('POST', '/v1/namespaces/n/tables', request)).toMatchObject(refused('AlreadyExistsException', 409));
  const again = await openCatalog(lake.folder);
  expect((await again.call('GET', '/v1/namespaces/n/tables/t')).body).toEqual(created.body);
  expect((await call('DELETE', '/v1/namespaces/n/tables/t?purgeRequested=true')).status).toBe(204);
  expect((await call('HEAD', '/v1/namespaces/n/tables/t')).status).toBe(404);
  const location = created.body['metadata-location'];
  const registered = await call('POST', '/v1/namespaces/n/register', { name: 't', 'metadata-location': location });
  expect(registered.body).toEqual(created.body);
  const elsewhere = await call('POST', '/v1/namespaces/n/register', { name: 'u', 'metadata-location': location });
  expect(elsewhere).toMatchObject(refused('BadRequestException', 400));
});

test('every answer about a table of the lander says that others must not delete its objects', async () => {
  const { lake, call } = await openCatalog();
  await createTable(lake, TABLE, { schema: SCHEMA });
  const updates = { note: 'x', 'gc.enabled': 'true', 'read.parquet.vectorization.enabled': 'true' };
  const loaded = await call('GET', TABLE_PATH);
  const committed = await call('POST', TABLE_PATH, {
    requirements: [],
    updates: [{ action: 'set-properties', updates }],
  });
  expect(loaded.body).toMatchObject({
    metadata: { properties: { 'gc.enabled': 'false', 'read.parquet.vectorization.enabled': 'false' } },
  });
  expect(committed.body).toMatchObject({ metadata: { properties: { ...updates, 'gc.enabled': 'false' } } });
});

test('of commits that race on one snapshot exactly one wins, and the others are told so', async () => {
  const { lake, call } = await openCatalog();
  await createTable(lake, TABLE, { schema: SCHEMA });
  const commits = await Promise.all(
    Array.from({ length: 8 }, (_, n) =>
      call('POST', TABLE_PATH, {
        requirements: [{ type: 'assert-current-schema-id', 'current-schema-id': 0 }],
        updates: [
          {
            action: 'add-schema',
            schema: {
              ...SCHEMA,
              fields: [...SCHEMA.fields, { id: 4, name: `c${n}`, required: false, type: 'string' }],
            },
          },
          { action: 'set-current-schema', 'schema-id': -1 },
        ],
      }),
    ),
  );
  expect(commits.filter(({ status }) => status === 200)).toHaveLength(1);
  for (const lost of commits.filter(({ status }) => status !== 200)) {
    expect(lost).toMatchObject(refused('CommitFailedException', 409));
  }
  expect((await mustLoad(lake)).schema.fields).toHaveLength(4);
});

test('a commit on a snapshot that is not the last any more changes nothing', async () => {
  const { lake, call } = await openCatalog();
  await createTable(lake, TABLE, { schema: SCHEMA });
  const add = [dataFile(lake.store, 'one')];
  await commitTable(lake, TABLE, async () => ({ change: { operation: 'append', add, remove: [] }, extra: {} }));
  const before = await mustLoad(lake);
  const stale = await call('POST', TABLE_PATH, {
    requirements: [{ type: 'assert-ref-snapshot-id', ref: 'main', 'snapshot-id': null }],
    updates: [{ action: 'set-properties', updates: { a: 'b' } }],
  });
  expect(stale).toMatchObject(refused('CommitFailedException', 409));
  expect((await mustLoad(lake)).metadataLocation).toBe(before.metadataLocation);
});

async function listedNames({ engine, volume }: LakeContext, hour: number): Promise<string[]> {
  const keys = new VolumeKeys(volume);
  const [directory = 0] = await ensureHourDirectories(engine, keys, TABLE, [hour], 0);
  const [stored] = await engine.read([keys.listingPointer(directory)]);
  if (stored === null || stored === undefined) return [];
  const live = await loadLive(engine, keys, directory, decodePointer(stored.value, directory));
  return (live ?? []).map(({ name }) => name).sort();
}

test('the directories of the hours follow what an outside commit makes current, and a drop', async () => {
  const { lake, call } = await openCatalog();
  await createTable(lake, TABLE, { schema: SCHEMA });
  const ids: bigint[] = [];
  for (const name of ['one', 'two']) {
    const add = [dataFile(lake.store, name)];
    const done = await commitTable(lake, TABLE, async () => ({
      change: { operation: 'append', add, remove: [] },
      extra: {},
    }));
    ids.push(done.snapshotId);
  }
  const toMain = (id: bigint | undefined) =>
    call('POST', TABLE_PATH, {
      requirements: [],
      updates: [{ action: 'set-snapshot-ref', 'ref-name': 'main', type: 'branch', 'snapshot-id': Number(id) }],
    });
  expect((await toMain(ids[0])).status).toBe(200);
  expect((await toMain(ids[1])).status).toBe(200);
  expect(await listedNames(lake, 500_000)).toEqual(['two.parquet']);
  expect((await toMain(ids[0])).status).toBe(200);
  expect(await listedNames(lake, 500_000)).toEqual([]);
  await toMain(ids[1]);
  expect((await call('DELETE', TABLE_PATH)).status).toBe(204);
  expect(await listedNames(lake, 500_000)).toEqual([]);
});

const snapshot = {
  'snapshot-id': 5,
  'sequence-number': 9,
  'timestamp-ms': 1,
  'manifest-list': 'file:///elsewhere/x.avro',
  summary: { operation: 'append' },
};
const updates: readonly (readonly [what: string, update: unknown, message: string])[] = [
  ['another place', { action: 'set-location', location: 'file:///tmp/x' }, 'location of a table is fixed'],
  ['version 3', { action: 'upgrade-format-version', 'format-version': 3 }, 'version 3 is not supported'],
  [
    'another spec',
    { action: 'add-spec', spec: { fields: [{ 'source-id': 1, name: 's', transform: 'identity' }] } },
    'partition spec of this table is fixed',
  ],
  ['no such update', { action: 'add-encryption-key' }, '"add-encryption-key" is not supported'],
  ['foreign objects', { action: 'add-snapshot', snapshot }, "not in the table's folder"],
  ['main', { action: 'remove-snapshot-ref', 'ref-name': 'main' }, 'branch main cannot be removed'],
  [
    'an absent snapshot',
    { action: 'set-snapshot-ref', 'ref-name': 'main', type: 'branch', 'snapshot-id': 77 },
    'there is none',
  ],
];

test.each(updates)('%s is refused by name and nothing is changed', async (_, update, message) => {
  const { lake, call } = await openCatalog();
  const { metadataLocation } = await createTable(lake, TABLE, { schema: SCHEMA });
  const result = await call('POST', TABLE_PATH, { requirements: [], updates: [update] });
  expect(result).toMatchObject(refused('BadRequestException', 400));
  expect(JSON.stringify(result.body)).toContain(JSON.stringify(message).slice(1, -1));
  expect((await mustLoad(lake)).metadataLocation).toBe(metadataLocation);
});

test('a staged table is there only after its commit', async () => {
  const { call } = await openCatalog();
  const path = '/v1/namespaces/default/tables';
  const staged = await call('POST', path, { ...request, 'stage-create': true });
  expect(staged.body['metadata-location']).toBeUndefined();
  expect((await call('HEAD', `${path}/t`)).status).toBe(404);
  const commit = {
    requirements: [{ type: 'assert-create' }],
    updates: [
      { action: 'add-schema', schema: request.schema },
      { action: 'set-current-schema', 'schema-id': -1 },
      { action: 'add-spec', spec: { fields: [] } },
      { action: 'set-default-spec', 'spec-id': -1 },
      { action: 'add-sort-order', 'sort-order': { 'order-id': 0, fields: [] } },
      { action: 'set-default-sort-order', 'sort-order-id': -1 },
    ],
  };
  expect((await call('POST', `${path}/t`, commit)).status).toBe(200);
  expect(await call('POST', `${path}/t`, commit)).toMatchObject(refused('CommitFailedException', 409));
});

test('without the token, and with a body that is none, nothing is answered but the error', async () => {
  const { call } = await openCatalog(undefined, 'secret');
  expect(await call('GET', '/v1/config')).toMatchObject(refused('NotAuthorizedException', 401));
  const open = await openCatalog();
  expect(await open.call('POST', '/v1/namespaces', '{')).toMatchObject(refused('BadRequestException', 400));
  expect(await open.call('GET', '/v1/views')).toMatchObject(refused('NotFoundException', 404));
  expect(await open.call('PUT', '/v1/config')).toMatchObject(refused('UnsupportedOperationException', 406));
});
