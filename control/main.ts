/** The control plane: opens the ports, serves the API and the admin page until the signal, and closes in order. */
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { resolve } from 'node:path';
import { systemClock, type Clock } from '../lib/clock.ts';
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { fromSystemError, PenstockError } from '../lib/errors.ts';
import { serveHealth, type HealthServer } from '../lib/health-server.ts';
import { isOpen } from './auth/guard.ts';
import { Tenants } from './auth/tenants.ts';
import { Tokens } from './auth/tokens.ts';
import { Sealer } from './connect/seal.ts';
import { Connections } from './connections.ts';
import { ControlContext, type AgentConfigProblems, type App } from './context.ts';
import { ControlMetrics } from './metrics.ts';
import { Scope } from './scope/scope.ts';
import { buildServer, type ClientBounds } from './server.ts';
import type { VolumeTools } from './volume-tools.ts';
import { loadWebFiles } from './web-files.ts';

export interface ServeOptions {
  readonly config: PipelineConfig;
  /** What relative paths of the configuration are from. */
  readonly baseDir: string;
  /** Instead of `serve.port`; 0: any free one. */
  readonly port?: number;
  /** HOST:PORT of `/healthz`, `/readyz` and `/metrics` without a token: for a scraper, beside the API. */
  readonly metrics?: string;
  readonly signal: AbortSignal;
  readonly version: string;
  readonly agentConfigProblems: AgentConfigProblems;
  readonly volumeTools: VolumeTools;
  /** PENSTOCK_TOKEN: the first administrator's token, taken while there is none. */
  readonly firstToken?: string;
  /** PENSTOCK_SEAL_KEYS: instead of the file `serve.connections.keys`. */
  readonly sealKeys?: string;
  readonly onServing: (serving: Serving) => void;
  readonly onLog?: (line: string) => void;
  readonly clock?: Clock;
  /** Instead of those of the server. */
  readonly clientBounds?: ClientBounds;
}

export interface Serving {
  readonly url: string;
  readonly metricsUrl?: string;
  /** Without tokens only this machine is served. */
  readonly loopbackOnly: boolean;
}

/** Resolves when the signal has fired and all is closed. Throws `config`, `unavailable` (the engine), `denied` or `held` (the port). */
export async function serve(options: ServeOptions): Promise<void> {
  const { config, signal, clock = systemClock } = options;
  refuseUnknownTenants(config);
  const tls = await readTls(config, options.baseDir);
  const sealer = await readSealer(options);
  const connections = await Connections.open(config, options.baseDir, clock);
  const tokens = new Tokens(connections, clock, new Tenants(config.serve.tenants));
  const context = new ControlContext(config, clock, connections, tokens, {
    agentConfigProblems: options.agentConfigProblems,
    volumeTools: options.volumeTools,
    ending: signal,
    sealer,
  });
  let app: App | undefined;
  let scraped: HealthServer | undefined;
  try {
    const firstToken = options.firstToken ?? (await readFirstToken(config, options.baseDir));
    if (firstToken !== undefined && !(await tokens.any())) await tokens.bootstrap(firstToken);
    const loopbackOnly = await isOpen(context);
    const metrics = new ControlMetrics(context);
    app = await buildServer(context, metrics, {
      version: options.version,
      web: loadWebFiles(),
      tls,
      ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
      ...(options.clientBounds === undefined ? {} : { clientBounds: options.clientBounds }),
    });
    await context.monitor.start();
    context.rollouts.start();
    const port = await listen(app, loopbackOnly ? '127.0.0.1' : '::', options.port ?? config.serve.port);
    if (options.metrics !== undefined) scraped = await serveMetrics(options.metrics, context, metrics);
    options.onServing({
      url: `http${tls === null ? '' : 's'}://127.0.0.1:${port}`,
      ...(scraped !== undefined && { metricsUrl: scraped.url }),
      loopbackOnly,
    });
    await aborted(signal);
  } finally {
    // Requests under way are answered first; what they use is closed after them.
    await app?.close();
    await scraped?.close();
    await context.close();
  }
}

/** What the platform sees, on an address of its own: who may reach that is for the network to say. */
function serveMetrics(address: string, context: ControlContext, metrics: ControlMetrics): Promise<HealthServer> {
  const platform = new Scope(context, null);
  const answers = {
    notAlive: () => null,
    notReady: () => {
      const down = context.connections.health.find(({ ok }) => !ok);
      return down === undefined ? null : `${down.name}: ${down.problem ?? 'down'}`;
    },
    contentType: metrics.contentType,
    metrics: () => metrics.text(platform),
  };
  return serveHealth(address, answers, '--metrics');
}

/** Throws `config`: people of the issuer would be of no tenant, and see all of them. */
function refuseUnknownTenants({ serve: { oidc, tenants } }: PipelineConfig): void {
  if (oidc === undefined || oidc.tenant !== undefined || tenants.length === 0) return;
  throw new PenstockError(
    'config',
    'serve.oidc.tenant: missing: with serve.tenants, expected { claim }: which claim of a JWT says of which tenant somebody is',
  );
}

async function listen(app: App, host: string, port: number): Promise<number> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    const isTaken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE';
    if (isTaken) throw new PenstockError('held', `port ${port} is taken by another process`, { cause: error });
    throw fromSystemError(error, `port ${port}`);
  }
  // A server that listens on TCP has such an address.
  return (app.server.address() as AddressInfo).port;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    else signal.addEventListener('abort', () => done(), { once: true });
  });
}

async function readTls(
  config: PipelineConfig,
  baseDir: string,
): Promise<{ readonly cert: Buffer; readonly key: Buffer } | null> {
  const { tls } = config.serve;
  if (tls === undefined) return null;
  const [cert, key] = await Promise.all(
    [tls.cert, tls.key].map((path) => readConfigured(resolve(baseDir, path), 'serve.tls')),
  );
  return cert === undefined || key === undefined ? null : { cert, key };
}

async function readSealer({ config, baseDir, sealKeys }: ServeOptions): Promise<Sealer> {
  const { keys } = config.serve.connections;
  if (sealKeys !== undefined) return Sealer.parse(sealKeys, 'PENSTOCK_SEAL_KEYS');
  if (keys === undefined) return Sealer.parse('', 'no keys');
  const text = (await readConfigured(resolve(baseDir, keys), 'serve.connections.keys')).toString('utf8');
  return Sealer.parse(text, 'serve.connections.keys');
}

/** `serve.tokens`: a file whose first line is the first administrator's token. */
async function readFirstToken(config: PipelineConfig, baseDir: string): Promise<string | undefined> {
  if (config.serve.tokens === undefined) return undefined;
  const text = (await readConfigured(resolve(baseDir, config.serve.tokens), 'serve.tokens')).toString('utf8');
  return text.split('\n')[0]?.trim();
}

async function readConfigured(path: string, key: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new PenstockError('config', `${key}: cannot read ${path}`, { cause: error });
  }
}
