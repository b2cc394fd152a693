/** `penstock fs status|gc|config|fsck|dump|load|destroy`, which work on a volume without a mount, and `info|warm|bench`, which work on a path. */
import type { Command } from 'commander';
import { describeError, PenstockError } from '../../lib/errors.ts';
import {
  EXIT_PARTLY,
  NOT_OF_ONE_INSTANT,
  oneLine,
  print,
  printTable,
  sayPartly,
  toJson,
  untilSignal,
} from '../output.ts';
import { keyValues, parseAge, parseCount, parseSize, progressOnStderr } from './fs-arguments.ts';
import type { ToolOptions } from './fs-arguments.ts';

interface GcOptions extends ToolOptions {
  readonly dryRun?: true;
  readonly grace?: number;
  readonly all?: true;
}

/** One line for each volume; what could not be done is named, and the status is 3. */
async function gcAll(metaUrl: string, options: GcOptions): Promise<void> {
  if (options.grace !== undefined || options.dryRun === true) {
    throw new PenstockError('usage', '--all takes neither --grace nor --dry-run: give them with --name for one volume');
  }
  const { gcAllVolumes } = await import('../../fs-gateway/tools/main.ts');
  const request = { metaUrl, name: options.name, progress: progressOnStderr() };
  for (const { volume, outcome } of await gcAllVolumes(request)) {
    const report = outcome instanceof Error ? { problem: describeError(outcome) } : outcome;
    process.stdout.write(`${toJson({ volume, ...report })}\n`);
    if (report.problem !== null) process.exitCode = EXIT_PARTLY;
  }
}

export function addFsToolCommands(fs: Command): void {
  fs.command('status <meta-url>')
    .description('what a volume is: its id, store and options, what is in use, and where it is mounted')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, { name, json }: ToolOptions) => {
      const { statusOf } = await import('../../fs-gateway/tools/main.ts');
      const { mounts, ...status } = await statusOf({ metaUrl, name });
      if (json === true) {
        print({ ...status, mounts }, json);
        return;
      }
      print({ ...status, mounts: mounts.length }, json);
      if (mounts.length === 0) return;
      process.stdout.write('\n');
      printTable(
        mounts.map((mount) => ({ ...mount })),
        json,
      );
    });

  fs.command('destroy <meta-url> <volume-id>')
    .description('remove a volume for good: its records, backups and objects; the id is what status shows')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, id: string, { name, json }: ToolOptions) => {
      const { destroy } = await import('../../fs-gateway/tools/main.ts');
      print({ ...(await destroy({ metaUrl, name, id, progress: progressOnStderr() })) }, json);
    });

  fs.command('gc <meta-url>')
    .description('delete the objects that nothing refers to any more and whose grace period is over')
    .option('--dry-run', 'say what would be deleted; change nothing')
    .option('--grace <duration>', "instead of the volume's; a shorter one needs it unmounted", parseAge)
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--all', 'also the volumes that the CSI driver made in this engine')
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, options: GcOptions) => {
      if (options.all === true) {
        await gcAll(metaUrl, options);
        return;
      }
      const { gcVolume } = await import('../../fs-gateway/tools/main.ts');
      const report = await gcVolume({
        metaUrl,
        name: options.name,
        dryRun: options.dryRun === true,
        ...(options.grace !== undefined && { graceMs: options.grace }),
        progress: progressOnStderr(),
      });
      print({ ...report }, options.json);
      if (report.problem !== null) process.exitCode = EXIT_PARTLY;
    });

  fs.command('config <meta-url> [options...]')
    .description('show the options of a volume, or change them: trash=7d, grace=48h, backup=30m, compression=zstd, ...')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, pairs: readonly string[], { name, json }: ToolOptions) => {
      const { configure } = await import('../../fs-gateway/tools/main.ts');
      print({ ...(await configure({ metaUrl, name, options: keyValues(pairs) })) }, json);
    });

  fs.command('fsck <meta-url>')
    .description('check every record and object of a volume; exit status 3 when findings are left')
    .option('--repair', 'make right what can be made right without a guess; never deletes content')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, options: ToolOptions & { readonly repair?: true }) => {
      const { fsckVolume } = await import('../../fs-gateway/tools/main.ts');
      const report = await fsckVolume({
        metaUrl,
        name: options.name,
        repair: options.repair === true,
        progress: progressOnStderr(),
      });
      const { findings, ...counts } = report;
      if (options.json === true) process.stdout.write(`${toJson(report)}\n`);
      else {
        for (const { kind, text, means, repair, repaired } of findings) {
          const action = repaired ? `repaired: ${repair}` : `--repair: ${repair}`;
          process.stdout.write(`${oneLine(`${kind}: ${text}; ${means}; ${action}`)}\n`);
        }
        print({ ...counts, findings: findings.length }, false);
      }
      if (report.more > 0 || findings.some((finding) => !finding.repaired)) process.exitCode = EXIT_PARTLY;
    });

  fs.command('dump <meta-url> <file>')
    .description(
      'write all metadata of a volume into a file while it is in use, as of one instant; exit status 3 when it could not be',
    )
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, path: string, options: ToolOptions) => {
      const { dumpToFile } = await import('../../fs-gateway/tools/main.ts');
      const report = await dumpToFile({ metaUrl, name: options.name, path, progress: progressOnStderr() });
      print({ ...report }, options.json);
      if (!report.consistent) sayPartly(NOT_OF_ONE_INSTANT);
    });

  fs.command('load <meta-url> <file>')
    .description('make a volume from a dump, where none of its name is')
    .option('--name <name>', 'another name (default: the one in the dump)')
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, path: string, options: ToolOptions) => {
      const { loadFromFile } = await import('../../fs-gateway/tools/main.ts');
      const report = await loadFromFile({ metaUrl, name: options.name, path, progress: progressOnStderr() });
      print({ ...report }, options.json);
      if (!report.consistent || report.missingLakeObjects > 0) process.exitCode = EXIT_PARTLY;
    });

  fs.command('info <path>')
    .description('what is at a path of a mount; of a directory, what is below it')
    .option('--meta <meta-url>', "also where a file's bytes are: extents and objects")
    .option('--name <name>', "the volume's name in META_URL (default: that of the mount)")
    .option('--json', 'print as one JSON object')
    .action(async (path: string, options: ToolOptions & { readonly meta?: string }) => {
      const { infoOf } = await import('../../fs-gateway/tools/main.ts');
      const info = await infoOf(path, {
        ...(options.meta !== undefined && { metaUrl: options.meta }),
        name: options.name,
        progress: progressOnStderr(),
      });
      print({ ...info }, options.json);
      if ((info.tree?.unreadable ?? 0) > 0) process.exitCode = EXIT_PARTLY;
    });

  fs.command('warm <path>')
    .description("read the files of a tree into its mount's cache; exit status 3 when some could not be read")
    .option('--parallel <n>', 'files at a time', parseCount, 8)
    .option('--json', 'print as one JSON object')
    .action(async (path: string, options: ToolOptions & { readonly parallel: number }) => {
      const { volumeInfo } = await import('../../fs-gateway/main.ts');
      const { warmTree } = await import('../../fs-gateway/tools/warm.ts');
      // Elsewhere it would read a whole disk, and warm nothing.
      volumeInfo(path);
      const signal = untilSignal();
      const report = await warmTree({ path, parallel: options.parallel, progress: progressOnStderr(), signal });
      print({ ...report }, options.json);
      if (report.failed > 0 || signal.aborted) process.exitCode = EXIT_PARTLY;
    });

  fs.command('bench <path>')
    .description('quick figures of a path: sequential and random access, small files')
    .option('--bytes <size>', 'of the large file', parseSize, 64 * 2 ** 20)
    .option('--files <n>', 'small files', parseCount, 500)
    .option('--json', 'print as one JSON object')
    .action(async (path: string, options: ToolOptions & { readonly bytes: number; readonly files: number }) => {
      const { benchPath } = await import('../../fs-gateway/tools/bench-path.ts');
      print({ ...benchPath({ path, bytes: options.bytes, files: options.files }) }, options.json);
    });
}
