/**
 * The HTTP server: plugins, hooks and routes put together. zod schemas of the routes are the single source of the validation, of the
 * answers' shape and of /openapi.json.
 *
 * Limits: bodies of BODY_BYTES_MAX; a request's head and body within REQUEST_MS (slow clients); REQUESTS_PER_MINUTE by address, and
 * FAILURES_PER_MINUTE failed authentications. A page of another origin reads nothing (no CORS) and changes nothing (only
 * application/json is taken as a body, which browsers do not send across origins without asking).
 */
import helmet from '@fastify/helmet';
import rateLimit from '@fastify/rate-limit';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import { fastify, type FastifyServerOptions } from 'fastify';
import { serializerCompiler, validatorCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod';
import { decide } from './auth/guard.ts';
import { tenantOfRequest } from './auth/tenants.ts';
import type { App, ControlContext } from './context.ts';
import { describeError } from '../lib/errors.ts';
import { withoutCredentials } from '../lib/urls.ts';
import { ControlMetrics } from './metrics.ts';
import { openApiOptions } from './openapi.ts';
import { handleError, sendProblem } from './problem.ts';
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
import { volumeRoutes } from './routes/volumes.ts';
import { Scopes } from './scope/scope.ts';
import { pageRoutes, type WebFiles } from './web-files.ts';

const BODY_BYTES_MAX = 262_144;
const REQUEST_MS = 15_000;
const REQUESTS_PER_MINUTE = 30_000;
const FAILURES_PER_MINUTE = 60;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'] as const;

export interface ServerOptions {
  readonly version: string;
  readonly web: WebFiles;
  readonly tls: { readonly cert: Buffer; readonly key: Buffer } | null;
  /** Where failures of requests are written; without it, nowhere. */
  readonly onLog?: (line: string) => void;
}

export async function buildServer(context: ControlContext, options: ServerOptions): Promise<App> {
  const app = createApp(options);
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

  const metrics = new ControlMetrics(context);
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
  await app.register(rateLimit, { max: REQUESTS_PER_MINUTE, timeWindow: 60_000 });
  addGuard(app, context);
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
    app.route({
      method: METHODS.filter((method) => !methods.has(method)),
      url,
      config: { access: 'public' },
      schema: { hide: true },
      handler: (request, reply) => {
        void reply.header('allow', allow);
        return sendProblem(reply, 405, 'method', `${request.method} is not taken here, only ${allow}`);
      },
    });
  }
}

function createApp({ tls, onLog }: ServerOptions): App {
  const common: FastifyServerOptions = {
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_MS,
    connectionTimeout: 0,
    keepAliveTimeout: 65_000,
    forceCloseConnections: true,
    // Names that are too long are the schemas' to refuse; this is only against what no schema would see.
    routerOptions: { maxParamLength: 4096 },
    frameworkErrors: (error, request, reply) => void handleError(error, request, reply),
    logger:
      onLog === undefined ? false : { level: 'warn', serializers: { err: loggedError }, stream: { write: onLog } },
  };
  // Fastify's types tell a server with TLS from one without; the routes do not.
  return fastify({ ...common, https: tls } as FastifyServerOptions).withTypeProvider<ZodTypeProvider>();
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
  app.addHook('onRequest', async (request, reply) => {
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

function addRoutes(app: App, context: ControlContext, metrics: ControlMetrics, options: ServerOptions): void {
  healthRoutes(app, context, metrics);
  overviewRoutes(app);
  datasetRoutes(app);
  partitionRoutes(app);
  runRoutes(app);
  forecastRoutes(app);
  quarantineRoutes(app);
  volumeRoutes(app);
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
