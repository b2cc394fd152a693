/** `penstock csi`: the CSI driver. */
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { print, reportToParent, untilSignal, version } from '../output.ts';

interface CsiCommandOptions {
  readonly endpoint: string;
  readonly nodeId: string;
  readonly controller?: true;
  readonly node?: true;
  readonly secrets?: string;
  readonly cacheDir: string;
  readonly logDir?: string;
  readonly mounts?: string;
  readonly keeper?: string;
  readonly listen?: string;
  readonly json?: true;
}

export function addCsiCommand(program: Command): void {
  program
    .command('csi')
    .description('the Kubernetes storage driver (CSI), until SIGTERM or Ctrl-C; mounts outlive it')
    .requiredOption('--endpoint <unix:path>', 'the socket to serve')
    .requiredOption('--node-id <id>', "the node's name")
    .option('--controller', 'the controller service: makes, removes and grows volumes')
    .option('--node', 'the node service: mounts them (default: both services)')
    .option('--secrets <dir>', 'a folder with meta, store, accessKeyId, secretAccessKey, for calls that bring none')
    .option('--cache-dir <dir>', "on the node's fastest disk", '/var/cache/penstock')
    .option('--log-dir <dir>', 'where mount daemons write their messages (default: CACHE_DIR/log)')
    .option(
      '--mounts <unix:path>',
      'let the driver at this socket start the mount daemons, so that they outlive this container',
    )
    .option(
      '--keeper <unix:path>',
      'the socket of the driver that keeps the mounts that this one starts: its ENDPOINT.keep',
    )
    .option('--listen <host:port>', 'serve /metrics, /healthz and /readyz there')
    .option('--json', 'print the address as one JSON object')
    .action(async (options: CsiCommandOptions) => {
      const signal = untilSignal();
      const { runCsiDriver } = await import('../../fs-gateway/csi/main.ts');
      const both = options.controller !== true && options.node !== true;
      const cacheDir = resolve(options.cacheDir);
      await runCsiDriver({
        endpoint: options.endpoint,
        nodeId: options.nodeId,
        controller: both || options.controller === true,
        node: both || options.node === true,
        version: version(),
        cacheDir,
        logDir: options.logDir === undefined ? join(cacheDir, 'log') : resolve(options.logDir),
        ...(options.secrets !== undefined && { secretsDir: resolve(options.secrets) }),
        ...(options.mounts !== undefined && { mounts: options.mounts }),
        ...(options.keeper !== undefined && { keeper: options.keeper }),
        ...(options.listen !== undefined && { listen: options.listen }),
        signal,
        log: (message) => process.stderr.write(`penstock csi: ${message}\n`),
        onServing: (serving) => {
          print({ ...serving }, options.json);
          reportToParent({ kind: 'serving', ...serving });
        },
      });
    });
}
