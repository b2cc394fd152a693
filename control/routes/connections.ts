/** The drivers that there are, and connections made with them: kept, tested, and passed vendors' own calls. */
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Principal } from '../auth/guard.ts';
import { assertMatch, editHeaders, etagOf } from '../conditional.ts';
import { priceSchema, versionOf, type ConnectionRecord } from '../connect/records.ts';
import type { App } from '../context.ts';
import { idempotencyHeaders, idOfRequest } from '../idempotency.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import { HttpProblem } from '../problem.ts';

const connection = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, "expected 1 to 128 letters, digits, '.', '_' or '-'");

const driverSchema = z.object({
  scheme: z.string(),
  port: z.enum(['log', 'store', 'meta']),
  form: z.string(),
  options: z.record(z.string(), z.string()).meta({ description: 'what may stand behind the ?, and what it means' }),
  credentials: z.array(z.string()).nullable().meta({ description: '* needed; null: it can be no connection' }),
  calls: z.array(
    z.object({
      name: z.string(),
      summary: z.string(),
      changes: z.boolean().meta({ description: 'true: for administrators' }),
      parameters: z.record(z.string(), z.unknown()).meta({ description: 'JSON Schema' }),
    }),
  ),
});

const form = {
  // Not `url`: that is an option of `penstock ctl` itself.
  address: z.string().min(1).max(2000).meta({ description: 'as `form` of its driver, without user and password' }),
  region: z.string().max(100).default(''),
  tags: z.record(z.string().min(1).max(128), z.string().max(256)).default({}),
  price: priceSchema.optional(),
  credentials: z
    .record(z.string().max(64), z.string().min(1).max(4096))
    .optional()
    .meta({ description: 'kept sealed and never shown; left out of a change, those that are kept stay' }),
};

const connectionSchema = z.object({
  name: z.string(),
  driver: z.string(),
  address: z.string(),
  region: z.string(),
  tags: z.record(z.string(), z.string()),
  price: priceSchema.nullable(),
  credentials: z.array(z.string()).meta({ description: 'the names of those that are kept' }),
  keyId: z.string().nullable().meta({ description: 'which key sealed them; null: there are none' }),
  changedMs: z.number(),
  changedBy: z.string(),
  version: z.string().meta({ description: 'also the ETag' }),
});

function shown(name: string, record: ConnectionRecord): z.output<typeof connectionSchema> {
  const { url, region, tags, price, credentials, sealed, changedMs, changedBy } = record;
  return {
    ...{ name, driver: url.replace(/:.*$/s, ''), address: url, region, tags, price, credentials },
    ...{ keyId: sealed?.keyId ?? null, changedMs, changedBy, version: versionOf(record) },
  };
}

const changerOf = ({ principal }: FastifyRequest): Pick<Principal, 'name' | 'tenant'> => ({
  name: principal?.name ?? '',
  tenant: principal?.tenant ?? null,
});

export function connectionRoutes(app: App): void {
  readRoutes(app);
  changeRoutes(app);
  useRoutes(app);
}

function readRoutes(app: App): void {
  app.get(
    '/v1/drivers',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'drivers.list',
        tags: ['connections'],
        summary: 'What Penstock can talk to: forms of URLs, options, credentials, and the vendors’ calls',
        response: { 200: z.object({ items: z.array(driverSchema), nextCursor: z.null() }) },
      },
    },
    async ({ scope }) => {
      const items = (await scope.connections.drivers()).map(({ vendor, ...driver }) => ({
        ...driver,
        options: { ...driver.options },
        credentials: vendor === null ? null : [...vendor.credentials],
        calls: (vendor?.calls ?? []).map((call) => ({ ...call, parameters: { ...call.parameters } })),
      }));
      return { items, nextCursor: null };
    },
  );

  app.get(
    '/v1/connections',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'connections.list',
        tags: ['connections'],
        summary: 'Services that are known by a name',
        querystring: z.object({
          ...pageQuery,
          tag: z.string().max(128).optional().meta({ description: 'that have it' }),
        }),
        response: { 200: pageOf(connectionSchema) },
      },
    },
    async ({ scope, query }) => {
      const { tag } = query;
      const all = [...(await scope.connections.list())].filter(
        ([, { tags }]) => tag === undefined || Object.hasOwn(tags, tag),
      );
      return paginate(
        all.map(([name, record]) => shown(name, record)),
        ({ name }) => [name],
        ascending,
        query,
      );
    },
  );

  app.get(
    '/v1/connections/:connection',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'connections.get',
        tags: ['connections'],
        summary: 'One connection, without its credentials',
        params: z.object({ connection }),
        response: { 200: connectionSchema },
      },
    },
    async (request, reply) => {
      const name = request.params.connection;
      const answer = shown(name, await request.scope.connections.get(name));
      void reply.header('etag', etagOf(answer.version));
      return answer;
    },
  );
}

function changeRoutes(app: App): void {
  app.post(
    '/v1/connections',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'connections.create',
        tags: ['connections'],
        summary: 'Make a connection; credentials are sealed at once',
        headers: idempotencyHeaders,
        body: z.strictObject({ name: connection, ...form }),
        response: { 201: connectionSchema },
      },
    },
    async (request, reply) => {
      const { name, address: url, ...body } = request.body;
      const { connections } = request.scope;
      const made = await connections.create(idOfRequest(request), name, { url, ...body }, changerOf(request));
      return reply.code(201).send(shown(name, made));
    },
  );

  app.put(
    '/v1/connections/:connection',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'connections.update',
        tags: ['connections'],
        summary: 'Say anew what a connection is; another address needs the credentials again',
        params: z.object({ connection }),
        headers: editHeaders,
        body: z.strictObject(form),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { connections } = request.scope;
      const { address: url, ...body } = request.body;
      await connections.replace(request.params.connection, { url, ...body }, changerOf(request), (current) =>
        assertMatch(request.headers['if-match'], current),
      );
      return reply.code(204).send(null);
    },
  );

  app.delete(
    '/v1/connections/:connection',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'connections.delete',
        tags: ['connections'],
        summary: 'Forget a connection and its credentials',
        params: z.object({ connection }),
        headers: editHeaders,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await request.scope.connections.delete(request.params.connection, changerOf(request), (current) =>
        assertMatch(request.headers['if-match'], current),
      );
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/v1/reseal',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'connections.reseal',
        tags: ['connections'],
        summary: 'Seal all credentials with the first key, so that the others can be taken away',
        response: { 200: z.object({ resealed: z.int() }) },
      },
    },
    async ({ scope }) => ({ resealed: await scope.connections.reseal() }),
  );
}

function useRoutes(app: App): void {
  // Each is a connection to somewhere else: dearer than other requests.
  const use = { access: 'operator', rateLimit: { max: 120, timeWindow: 60_000 } } as const;

  app.post(
    '/v1/connections/:connection/test',
    {
      config: use,
      schema: {
        operationId: 'connections.test',
        tags: ['connections'],
        summary: 'Connect and make one cheap call; says what failed and what to do about it',
        params: z.object({ connection }),
        response: {
          200: z.object({
            ok: z.boolean(),
            seconds: z.number(),
            problem: z.string().nullable(),
            remedy: z.string().nullable(),
          }),
        },
      },
    },
    (request) => request.scope.connections.test(request.params.connection),
  );

  app.post(
    '/v1/connections/:connection/call',
    {
      config: use,
      schema: {
        operationId: 'connections.call',
        tags: ['connections'],
        summary: 'Pass one of the vendor’s calls through (`drivers list`); what changes anything is for administrators',
        params: z.object({ connection }),
        body: z.strictObject({
          call: z.string().min(1).max(100),
          parameters: z.record(z.string(), z.unknown()).default({}),
        }),
        response: { 200: z.object({ answer: z.unknown() }) },
      },
    },
    async (request) => {
      const { connections } = request.scope;
      const name = request.params.connection;
      const { call, parameters } = request.body;
      if ((await connections.isChange(name, call)) && request.principal?.role !== 'admin') {
        throw new HttpProblem(403, 'denied', `${call} changes something: it needs the role admin`);
      }
      return { answer: await connections.call(name, call, parameters) };
    },
  );
}
