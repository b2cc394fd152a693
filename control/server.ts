/**
 * The HTTP server: plugins, hooks and routes put together. zod schemas of the routes are the single source of the validation, of the
 * answers' shape and of /openapi.json.
 *
 * Limits: bodies of BODY_BYTES_MAX, and of all that are being read those of context.ts, half of it of one tenant; a request's head and body within
 * CLIENT_BOUNDS.requestMs (looked after three times in that, so up to a third more), its answer taken within answerMs; connections, connection-bound.ts; REQUESTS_PER_MINUTE of a tenant or of somebody of the platform, of
 * all from one address ADDRESS_PER_MINUTE, and FAILURES_PER_MINUTE failed authentications. So tenants behind one proxy do not use up each other's. A page of another origin reads nothing (no CORS) and changes nothing (only
 * application/json is taken as a body, which browsers do not send across origins without asking).
 */
import helmet from '@fastify/helmet';
import rateLimit from '@fastify/rate-limit';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import { fastify, type FastifyReply, type FastifyRequest, type FastifyServerOptions } from 'fastify';
import { serializerCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod';
import { decide } from './auth/guard.ts';
import { tenantOfRequest } from './auth/tenants.ts';
import { boundConnections } from './connection-bound.ts';
import type { App, ControlContext } from './context.ts';
import { describeError, PenstockError } from '../lib/errors.ts';
import { withoutCredentials } from '../lib/urls.ts';
import type { ControlMetrics } from './metrics.ts';
import { openApiOptions } from './openapi.ts';
import { handleError, refuseConnection, sendProblem, validatorCompiler } from './problem.ts';
import { addAudit, auditRoutes } from './routes/audit.ts';
import { agentConfigRoutes } from './routes/agent-configs.ts';
import { agentGroupRoutes } from './routes/agent-groups.ts';
import { agentRoutes } from './routes/agents.ts';
import { connectionRoutes } from './routes/connections.ts';
import { datasetRoutes } from './routes/datasets.ts';
import { forecastRoutes } from './routes/forecasts.ts';
import { healthRoutes } from './routes/health.ts';
import { lineageRoutes } from './routes/lineage.ts';
import { mountRoutes } from './routes/mounts.ts';
import { overviewRoutes } from './routes/overview.ts';
import { partitionRoutes } from './routes/partitions.ts';
import { quarantineRoutes } from './routes/quarantine.ts';
import { rolloutRoutes } from './routes/rollouts.ts';
import { runRoutes } from './routes/runs.ts';
import { sqlRoutes } from './routes/sql.ts';
import { tenantRoutes } from './routes/tenants.ts';
import { tokenRoutes } from './routes/tokens.ts';
import { volumeOperationRoutes } from './routes/volume-operations.ts';
import { volumeToolRoutes } from './routes/volume-tools.ts';
import { volumeRoutes } from './routes/volumes.ts';
import { Scopes } from './scope/scope.ts';
import { pageRoutes, type WebFiles } from './web-files.ts';

const BODY_BYTES_MAX = 262_144;
/** The largest answers are some MB: who reads 50 kB/s, a slow mobile link, has them. */
const CLIENT_BOUNDS: ClientBounds = { requestMs: 15_000, answerMs: 60_000 };
/** 2,000 a second: forty times what a thousand agents and a hundred open pages ask. */
const REQUESTS_PER_MINUTE = 120_000;
/** 10,000 a second. Many tenants may come through one proxy; this is only against a flood, before anything is looked up for it. */
const ADDRESS_PER_MINUTE = 600_000;
const FAILURES_PER_MINUTE = 60;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'QUERY'] as const;

/** How long a client may take. */
export interface ClientBounds {
  /** From the first byte of a request (or the connection) to its last. */
  readonly requestMs: number;
  /** From when an answer is made until the last byte is with the kernel: all of it is in memory meanwhile. */
  readonly answerMs: number;
}

export interface ServerOptions {
  readonly version: string;
  readonly web: WebFiles;
  readonly tls: { readonly cert: Buffer; readonly key: Buffer } | null;
  /** Where failures of requests are written; without it, nowhere. */
  readonly onLog?: (line: string) => void;
  readonly clientBounds?: ClientBounds;
}

export async function buildServer(
  context: ControlContext,
  metrics: ControlMetrics,
  options: ServerOptions,
): Promise<App> {
  const bounds = options.clientBounds ?? CLIENT_BOUNDS;
  const app = createApp(options, bounds);
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler(handleError);
  app.setNotFoundHandler((request, reply) =>
    sendProblem(reply, 404, 'not-found', `there is no ${request.method} ${request.url.slice(0, 200)}`),
  );
  // Everything that is not JSON is refused, by 415.
  app.removeContentTypeParser('text/plain');
  app.addHook('onRoute', (route) => {
    // A forgotten rule must be a failed start, not an open door. Swagger's own pages show only the document, which is public.
    if (route.config?.access === undefined && !route.url.startsWith('/docs'))
      throw new Error(`${route.url}: no access rule`);
  });

  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    metrics.observe(route, request.method, reply.statusCode, reply.elapsedTime / 1000);
  });
  await app.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'", `'sha256-${options.web.importMapHash}'`],
        styleSrc: ["'self'"],
        imgSrc: ["'self'", 'data:'],
        connectSrc: ["'self'"],
        baseUri: ["'none'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
    },
    // Only where we speak TLS ourselves: a proxy in front decides for itself.
    strictTransportSecurity: options.tls === null ? false : { maxAge: 31_536_000 },
    crossOriginEmbedderPolicy: false,
  });
  boundConnections(app, context.config.serve.maxConnections, metrics);
  // Behind the guard, which knows who asks.
  await app.register(rateLimit, {
    max: REQUESTS_PER_MINUTE,
    timeWindow: 60_000,
    hook: 'preParsing',
    keyGenerator: partyOf,
  });
  addGuard(app, context);
  boundBodies(app, context);
  boundAnswers(app, bounds.answerMs);
  addAudit(app, context);
  await app.register(swagger, openApiOptions(options.version));
  await app.register(swaggerUi, { routePrefix: '/docs', staticCSP: true });
  const declared = collectMethods(app);
  addRoutes(app, context, metrics, options);
  refuseOtherMethods(app, declared);
  return app;
}

/** The methods of each path that is registered from now on. */
function collectMethods(app: App): ReadonlyMap<string, Set<string>> {
  const declared = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ url, method }) => {
    const methods = declared.get(url) ?? new Set();
    for (const one of [method].flat()) methods.add(one);
    declared.set(url, methods);
  });
  return declared;
}

/** A path that exists answers 405 to what it does not take, with what it does. */
function refuseOtherMethods(app: App, declared: ReadonlyMap<string, Set<string>>): void {
  for (const [url, methods] of [...declared]) {
    const allow = [...methods].join(', ');
    const refuse = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
      void reply.header('allow', allow);
      return sendProblem(reply, 405, 'method', `${request.method} is not taken here, only ${allow}`);
    };
    app.route({
      method: METHODS.filter((method) => !methods.has(method)),
      url,
      config: { access: 'public' },
      schema: { hide: true },
      // Before anything is said about its body.
      onRequest: refuse,
      handler: refuse,
    });
  }
}

function createApp({ tls, onLog }: ServerOptions, { requestMs }: ClientBounds): App {
  // Node's own are a minute for the head, whatever the request may take, and a look at both each half minute.
  const http = {
    requestTimeout: requestMs,
    headersTimeout: requestMs,
    connectionsCheckingInterval: Math.ceil(requestMs / 3),
  };
  const common: FastifyServerOptions = {
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: requestMs,
    connectionTimeout: 0,
    keepAliveTimeout: 65_000,
    forceCloseConnections: true,
    // Names that are too long are the schemas' to refuse; this is only against what no schema would see.
    routerOptions: { maxParamLength: 4096 },
    clientErrorHandler: refuseConnection,
    frameworkErrors: (error, request, reply) => void handleError(error, request, reply),
    logger:
      onLog === undefined ? false : { level: 'warn', serializers: { err: loggedError }, stream: { write: onLog } },
  };
  // Fastify's types tell a server with TLS from one without; the routes do not.
  return fastify({
    ...common,
    // Of a handshake that stands still node's own bound is two minutes.
    ...(tls === null ? { http } : { https: { ...http, ...tls, handshakeTimeout: requestMs } }),
  } as FastifyServerOptions).withTypeProvider<ZodTypeProvider>();
}

/** Of an error what is known to hold no secret: a client library may hang the command that failed on it, with its password. */
function loggedError(error: Error): { readonly type: string; readonly message: string; readonly stack: string } {
  return {
    type: error.name,
    message: withoutCredentials(describeError(error)),
    stack: (error.stack ?? '')
      .split('\n')
      .filter((line) => /^\s+at /.test(line))
      .join('\n'),
  };
}

function addGuard(app: App, context: ControlContext): void {
  const scopes = new Scopes(context);
  app.decorateRequest('principal', null);
  app.decorateRequest('tenant', null);
  app.decorateRequest('scope', {
    getter() {
      if (this.principal === null) throw new Error('nobody is known on a public route');
      return scopes.of(this.tenant);
    },
  });
  const failures = app.createRateLimit({
    max: FAILURES_PER_MINUTE,
    timeWindow: 60_000,
    keyGenerator: (request) => `auth ${request.ip}`,
  });
  const flood = app.createRateLimit({
    max: ADDRESS_PER_MINUTE,
    timeWindow: 60_000,
    keyGenerator: ({ ip }) => `flood ${ip}`,
  });
  app.addHook('onRequest', async (request, reply) => {
    const all = await flood(request);
    if (!all.isAllowed && all.isExceeded) {
      return sendProblem(reply, 429, 'too-many', 'too many requests from this address: wait a minute');
    }
    const decision = await decide(request, request.routeOptions.config.access ?? 'public', context);
    if ('principal' in decision) {
      const { principal } = decision;
      if (principal !== null) request.tenant = tenantOfRequest(request, principal, context.tenants);
      request.principal = principal;
      return;
    }
    // A request without a token is no guess: the page makes some before it asks for one.
    const isGuess = decision.status === 401 && request.headers.authorization !== undefined;
    const counted = isGuess ? await failures(request) : { isAllowed: true as const };
    if (!counted.isAllowed && counted.isExceeded) {
      return sendProblem(reply, 429, 'too-many-failures', 'too many failed attempts from this address: wait a minute');
    }
    if (decision.status === 401) void reply.header('www-authenticate', 'Bearer realm="penstock"');
    return sendProblem(reply, decision.status, decision.status === 401 ? 'unauthenticated' : 'denied', decision.reason);
  });
}

/** Whose share a request is taken from. Nobody is known on public routes. */
function partyOf({ ip, principal }: FastifyRequest): string {
  if (principal === null) return `address ${ip}`;
  return principal.tenant === null ? `platform ${principal.name}` : `tenant ${principal.tenant}`;
}

/** A body is in memory from its first byte to the answer, and clients may take their time to send it. */
function boundBodies(app: App, { bodyBytes }: ControlContext): void {
  app.addHook('preParsing', async ({ headers, principal }, reply) => {
    const announced = Number(
      headers['content-length'] ?? (headers['transfer-encoding'] === undefined ? 0 : BODY_BYTES_MAX),
    );
    // A longer one is refused before it is read. Who went away while the guard looked up who it is closes nothing any more.
    if (principal === null || announced === 0 || announced > BODY_BYTES_MAX || reply.raw.destroyed) return;
    if (!bodyBytes.take(principal.tenant, announced)) {
      throw new PenstockError('unavailable', 'too many requests are being read at present');
    }
    reply.raw.once('close', () => bodyBytes.give(principal.tenant, announced));
  });
}

/** Who does not read an answer keeps it in memory: the connection is cut. */
function boundAnswers(app: App, answerMs: number): void {
  app.addHook('onSend', (_request, { raw }, payload, done) => {
    if (!raw.destroyed) {
      const timer = setTimeout(() => raw.destroy(), answerMs).unref();
      raw.once('close', () => clearTimeout(timer));
    }
    done(null, payload);
  });
}

function addRoutes(app: App, context: ControlContext, metrics: ControlMetrics, options: ServerOptions): void {
  healthRoutes(app, context, metrics);
  overviewRoutes(app);
  datasetRoutes(app);
  partitionRoutes(app);
  runRoutes(app);
  forecastRoutes(app);
  quarantineRoutes(app);
  volumeRoutes(app);
  volumeToolRoutes(app);
  volumeOperationRoutes(app);
  mountRoutes(app);
  agentRoutes(app);
  agentConfigRoutes(app);
  agentGroupRoutes(app);
  rolloutRoutes(app);
  lineageRoutes(app);
  sqlRoutes(app);
  connectionRoutes(app);
  tenantRoutes(app);
  tokenRoutes(app);
  auditRoutes(app);
  pageRoutes(app, options.web);
  app.get('/openapi.json', { config: { access: 'public' }, schema: { hide: true } }, () => app.swagger());
}
