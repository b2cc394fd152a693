/** `penstock fs quota`: what the tools do about space. */
import type { Command } from 'commander';
import { print, printTable } from '../output.ts';
import { parseBytesLimit, parseInodesLimit, progressOnStderr } from './fs-arguments.ts';
import type { ToolOptions } from './fs-arguments.ts';

export function addFsSpaceCommands(fs: Command): void {
  const quota = fs.command('quota').description('limits of bytes and inodes for a directory, or (PATH /) the volume');

  quota
    .command('set <meta-url> <path>')
    .description('limit what is below a directory; what is there already is counted while the volume is in use')
    .option('--bytes <size>', 'as 100GB; or none', parseBytesLimit)
    .option('--inodes <n>', 'files, directories and all else; or none', parseInodesLimit)
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(
      async (
        metaUrl: string,
        path: string,
        options: ToolOptions & { readonly bytes?: number | 'none'; readonly inodes?: number | 'none' },
      ) => {
        const { setVolumeQuota } = await import('../../fs-gateway/tools/main.ts');
        const { bytes, inodes, name, json } = options;
        const limits = {
          ...(bytes !== undefined && { bytesMax: bytes === 'none' ? null : bytes }),
          ...(inodes !== undefined && { inodesMax: inodes === 'none' ? null : inodes }),
        };
        print({ ...(await setVolumeQuota({ metaUrl, name, path, limits, progress: progressOnStderr() })) }, json);
      },
    );

  quota
    .command('get <meta-url> [path]')
    .description('the limits and the usage of a directory, or of all that have a quota')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object, of all as an array')
    .action(async (metaUrl: string, path: string | undefined, { name, json }: ToolOptions) => {
      const { volumeQuotas } = await import('../../fs-gateway/tools/main.ts');
      const quotas = await volumeQuotas({ metaUrl, name, ...(path !== undefined && { path }) });
      const [only] = quotas;
      if (path !== undefined && only !== undefined) print({ ...only }, json);
      else
        printTable(
          quotas.map((one) => ({ ...one })),
          json,
        );
    });
}
