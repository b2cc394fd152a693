/** `penstock fs quota|trash|clone|snapshot|backup`: what the tools keep, and how much. */
import type { Command } from 'commander';
import { PenstockError } from '../../lib/errors.ts';
import { EXIT_PARTLY, NOT_OF_ONE_INSTANT, print, printTable, sayPartly } from '../output.ts';
import { parseAge, parseBytesLimit, parseInodesLimit, progressOnStderr } from './fs-arguments.ts';
import type { ToolOptions } from './fs-arguments.ts';

interface Copy {
  readonly consistent: boolean;
}

function printCopy(report: Copy, json: boolean | undefined): void {
  print({ ...report }, json);
  if (!report.consistent) sayPartly(NOT_OF_ONE_INSTANT);
}

export function addFsSpaceCommands(fs: Command): void {
  addQuotaCommands(fs);
  addTrashCommands(fs);
  addCloneCommands(fs);
  addBackupCommands(fs);
}

function addQuotaCommands(fs: Command): void {
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
        if (bytes === undefined && inodes === undefined) {
          throw new PenstockError('usage', 'quota set needs a limit: --bytes, --inodes or both (none takes one away)');
        }
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

function addTrashCommands(fs: Command): void {
  const trash = fs.command('trash').description('what was removed from a volume with the option trash');

  trash
    .command('list <meta-url>')
    .description('what is in the trash, and where it was')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as a JSON array')
    .action(async (metaUrl: string, { name, json }: ToolOptions) => {
      const { listTrash } = await import('../../fs-gateway/tools/main.ts');
      const items = await listTrash({ metaUrl, name, progress: progressOnStderr() });
      printTable(
        items.map((item) => ({ ...item })),
        json,
      );
    });

  trash
    .command('restore <meta-url> <path-or-id...>')
    .description('bring back files and trees; exit status 3 when some could not be')
    .option('--to <path>', 'to this path of the volume')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, wanted: string[], options: ToolOptions & { readonly to?: string }) => {
      const { restoreTrash } = await import('../../fs-gateway/tools/main.ts');
      const { name, to, json } = options;
      const report = await restoreTrash({
        metaUrl,
        name,
        wanted,
        ...(to !== undefined && { to }),
        progress: progressOnStderr(),
      });
      print({ ...report }, json);
      if (report.failed > 0) process.exitCode = EXIT_PARTLY;
    });

  trash
    .command('empty <meta-url>')
    .description('remove for good what is in the trash')
    .option('--older-than <duration>', 'only what was removed in hours that ended longer ago', parseAge)
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, options: ToolOptions & { readonly olderThan?: number }) => {
      const { emptyTrash } = await import('../../fs-gateway/tools/main.ts');
      const { name, olderThan, json } = options;
      const report = await emptyTrash({
        metaUrl,
        name,
        ...(olderThan !== undefined && { olderThanMs: olderThan }),
        progress: progressOnStderr(),
      });
      print({ ...report }, json);
    });
}

function addCloneCommands(fs: Command): void {
  fs.command('clone <source> <target>')
    .description(
      'copy a file or a tree of a mount in an instant: both share their data until one is changed; exit status 3 when it could not be of one',
    )
    .option('--json', 'print as one JSON object')
    .action(async (source: string, target: string, { json }: ToolOptions) => {
      const { clonePath } = await import('../../fs-gateway/tools/main.ts');
      printCopy(await clonePath(source, target, { progress: progressOnStderr() }), json);
    });

  fs.command('publish <meta-url> <object-url> <path>')
    .description("make files of objects in the volume's store, without a copy; a URL that ends with / is a whole tree")
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, objectUrl: string, path: string, { name, json }: ToolOptions) => {
      const { publishInto } = await import('../../fs-gateway/tools/main.ts');
      const request = { metaUrl, name, objectUrl, path, progress: progressOnStderr() };
      const { problems, ...report } = await publishInto(request);
      print({ ...report, ...(json === true && { problems }) }, json);
      for (const problem of problems) process.stderr.write(`penstock: not published: ${problem}\n`);
      if (report.skipped > 0) process.exitCode = EXIT_PARTLY;
    });

  const snapshot = fs.command('snapshot').description('the whole volume as it is now, read-only, at /.snapshots/NAME');

  snapshot
    .command('create <meta-url> [snapshot]')
    .description(
      'copies metadata only; the name is the time unless one is given; exit status 3 when it could not be of one instant',
    )
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, name: string | undefined, options: ToolOptions) => {
      const { snapshotVolume } = await import('../../fs-gateway/tools/main.ts');
      const request = { metaUrl, name: options.name, progress: progressOnStderr() };
      const report = await snapshotVolume({ ...request, ...(name !== undefined && { snapshot: name }) });
      printCopy(report, options.json);
    });

  snapshot
    .command('list <meta-url>')
    .description('the snapshots of a volume')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as a JSON array')
    .action(async (metaUrl: string, { name, json }: ToolOptions) => {
      const { volumeSnapshots } = await import('../../fs-gateway/tools/main.ts');
      const snapshots = await volumeSnapshots({ metaUrl, name });
      printTable(
        snapshots.map((one) => ({ ...one })),
        json,
      );
    });

  snapshot
    .command('delete <meta-url> <snapshot>')
    .description('what only it refers to is garbage then')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, snapshotName: string, { name, json }: ToolOptions) => {
      const { removeSnapshot } = await import('../../fs-gateway/tools/main.ts');
      await removeSnapshot({ metaUrl, name, snapshot: snapshotName, progress: progressOnStderr() });
      print({ deleted: snapshotName }, json);
    });
}

function addBackupCommands(fs: Command): void {
  const backup = fs.command('backup').description('the metadata of volumes, in their stores');

  backup
    .command('create <meta-url>')
    .description('back it up now; mounts do so by themselves, as the option backup says')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, { name, json }: ToolOptions) => {
      const { backupVolume } = await import('../../fs-gateway/tools/main.ts');
      printCopy(await backupVolume({ metaUrl, name, progress: progressOnStderr() }), json);
    });

  backup
    .command('list <store-url>')
    .description('the backups of all volumes in a store')
    .option('--json', 'print as a JSON array')
    .action(async (storeUrl: string, { json }: ToolOptions) => {
      const { backupsIn } = await import('../../fs-gateway/tools/main.ts');
      printTable(
        (await backupsIn(storeUrl)).map((one) => ({ ...one })),
        json,
      );
    });

  backup
    .command('fetch <store-url> <key> <file>')
    .description('a backup as a file, for load')
    .option('--json', 'print as one JSON object')
    .action(async (storeUrl: string, key: string, file: string, { json }: ToolOptions) => {
      const { fetchBackup } = await import('../../fs-gateway/tools/main.ts');
      print({ ...(await fetchBackup(storeUrl, key, file)) }, json);
    });

  backup
    .command('delete <store-url> <key>')
    .description('what only it needs is garbage for the next gc')
    .option('--json', 'print as one JSON object')
    .action(async (storeUrl: string, key: string, { json }: ToolOptions) => {
      const { deleteBackup } = await import('../../fs-gateway/tools/main.ts');
      await deleteBackup(storeUrl, key);
      print({ deleted: key }, json);
    });
}
