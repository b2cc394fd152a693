/** `penstock csi`: the CSI driver, as a controller, on a node, or both in one process. */
import { systemClock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { serveHealth } from '../../lib/health-server.ts';
import { Controller } from './controller.ts';
import { Identity } from './identity.ts';
import { CsiMetrics } from './metrics.ts';
import { Keeper } from '../fuse/keeper.ts';
import { makeMountDaemons, remoteMountDaemons, resumeMounts, sweepCaches } from './mount-daemons.ts';
import { Node } from './node.ts';
import { readSecretsFolder } from './secrets.ts';
import { serveCsi, socketPath } from './server.ts';

/** The specification's bound on a node's id. */
const NODE_ID_BYTES_MAX = 256;

export interface CsiOptions {
  readonly endpoint: string;
  readonly nodeId: string;
  readonly controller: boolean;
  readonly node: boolean;
  readonly version: string;
  readonly cacheDir: string;
  /** The socket of the driver that starts the mount daemons; without it, this one does. */
  readonly mounts?: string;
  /** The socket of the keeper of the mounts (fuse/keeper.ts); without it, this driver keeps them, at `ENDPOINT.keep`. */
  readonly keeper?: string;
  readonly logDir: string;
  /** A folder with the files `meta`, `store`, `accessKeyId`, `secretAccessKey`, used where a call brings no secrets. */
  readonly secretsDir?: string;
  /** HOST:PORT of /metrics. */
  readonly listen?: string;
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
  onServing(serving: { readonly endpoint: string; readonly metrics?: string }): void;
}

/** Serves until the signal fires. Throws `usage`, `config`, `held`. */
export async function runCsiDriver(options: CsiOptions): Promise<void> {
  const { nodeId, version, controller, node, signal, log } = options;
  if (nodeId === '' || Buffer.byteLength(nodeId) > NODE_ID_BYTES_MAX) {
    throw new PenstockError('usage', `--node-id: expected 1 to ${NODE_ID_BYTES_MAX} bytes`);
  }
  const secrets = options.secretsDir === undefined ? undefined : readSecretsFolder(options.secretsDir);
  const withSecrets = secrets === undefined ? {} : { secrets };
  const metrics = new CsiMetrics(node);
  const http = options.listen === undefined ? undefined : await serveHealth(options.listen, metrics);
  const ownKeeper = `${socketPath(options.endpoint)}.keep`;
  const keeper = options.keeper === undefined ? ownKeeper : socketPath(options.keeper);
  const setting = { cacheDir: options.cacheDir, logDir: options.logDir, keeper };
  const keeping = node && keeper === ownKeeper ? new Keeper(log) : undefined;
  const own = node && options.mounts === undefined ? makeMountDaemons(setting) : undefined;
  try {
    const server = await serveCsi({
      endpoint: options.endpoint,
      services: {
        Identity: new Identity({ version, controller }),
        ...(controller && { Controller: new Controller({ clock: systemClock, ...withSecrets }) }),
        // A controller alone writes nothing to the disk.
        ...(node && {
          Node: new Node({
            nodeId,
            daemons: own ?? remoteMountDaemons(socketPath(options.mounts ?? '')),
            clock: systemClock,
            ...withSecrets,
          }),
        }),
      },
      onCall: (report) => metrics.record(report),
      log,
    });
    // The endpoint is ours now: a driver that is there already was left alone.
    await keeping?.listen(keeper);
    if (own !== undefined) {
      void resumeMounts(setting, signal, log);
      void sweepCaches(own, systemClock, signal, log);
    }
    options.onServing({ endpoint: `unix:${server.path}`, ...(http !== undefined && { metrics: http.url }) });
    await new Promise<void>((done) => {
      if (signal.aborted) done();
      else signal.addEventListener('abort', () => done(), { once: true });
    });
    await server.stop();
  } finally {
    keeping?.close();
    await http?.close();
  }
}
