/** `penstock fs format|mount|umount|stats|upgrade`; the tools are in fs-tools.ts. */
import { Option, type Command } from 'commander';
import { keyValues, parseSize, stagedOnStderr } from './fs-arguments.ts';
import { addFsSpaceCommands } from './fs-space.ts';
import { addFsToolCommands } from './fs-tools.ts';
import {
  EXIT_FAILED,
  EXIT_PARTLY,
  oneLine,
  print,
  printTable,
  reportToParent,
  toJson,
  untilSignal,
} from '../output.ts';
import { watch } from '../watch.ts';

interface Json {
  readonly json?: true;
}

interface FormatOptions extends Json {
  readonly store: string;
  readonly name?: string;
  readonly option?: readonly string[];
  readonly compress?: string;
  readonly ifMissing?: true;
}

interface MountOptions extends Json {
  readonly name?: string;
  readonly cacheDir?: string;
  readonly cacheSize?: number;
  readonly readOnly?: true;
  readonly background?: true;
  readonly logFile?: string;
  readonly o?: readonly string[];
}

interface StatsOptions extends Json {
  readonly watch?: true;
  readonly by?: 'pod' | 'file';
}

const collect = (value: string, previous: readonly string[] | undefined): string[] => [...(previous ?? []), value];

export function addFsCommands(program: Command): void {
  const fs = program.command('fs').description('the shared file system: volumes and mounts');

  fs.command('format <meta-url>')
    .description('make a volume: its metadata in META_URL (?volume=NAME), its data in the store')
    .requiredOption('--store <url>', 'dir:PATH or s3://bucket/prefix?endpoint=URL&region=R')
    .option('--name <name>', "the volume's name (default: lake)")
    .option(
      '--option <k=v>',
      'blockSize, inlineBytes, trash, grace, backup, backupKeep, gc, durability or compression; may be repeated',
      collect,
    )
    .option('--compress <codec>', 'the same as --option compression=CODEC: zstd or none')
    .option('--if-missing', 'a volume that is there already, in the same store, is left as it is')
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, options: FormatOptions) => {
      const { ensureVolume, formatVolume } = await import('../../fs-gateway/main.ts');
      const make = options.ifMissing === true ? ensureVolume : formatVolume;
      const format = await make({
        metaUrl,
        storeUrl: options.store,
        ...(options.name === undefined ? {} : { name: options.name }),
        options: {
          ...keyValues(options.option ?? []),
          ...(options.compress !== undefined && { compression: options.compress }),
        },
      });
      print({ ...format }, options.json);
    });

  fs.command('mount <meta-url> <mountpoint>')
    .description('mount a volume; stays in the foreground until SIGTERM, unless --background')
    .option('--name <name>', "the volume's name (default: lake)")
    .option(
      '--cache-dir <dir>',
      "on the node's fastest disk (default: /var/cache/penstock; of another user than root ~/.cache/penstock)",
    )
    .option('--cache-size <size>', 'bound of the cache, as 100GB (default: 10GB)', parseSize)
    .option('--read-only', 'nothing can be changed through this mount')
    .option(
      '-o <options>',
      'accesslog=FILE, ro, writeback, openCache, passthrough=full|read|off, cacheGroup=NAME, peerListen=HOST:PORT; may be repeated',
      collect,
    )
    .option('--background', 'return when it is mounted')
    .option('--log-file <file>', 'where a background mount writes its messages')
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, mountpoint: string, options: MountOptions) => {
      const { mountVolume, parseMountOptions } = await import('../../fs-gateway/main.ts');
      const { readOnly, ...parsed } = parseMountOptions(options.o ?? []);
      const signal = options.background === true ? undefined : untilSignal();
      const mount = await mountVolume({
        metaUrl,
        mountpoint,
        ...parsed,
        ...(options.name === undefined ? {} : { name: options.name }),
        ...(options.cacheDir === undefined ? {} : { cacheDir: options.cacheDir }),
        ...(options.cacheSize === undefined ? {} : { cacheBytes: options.cacheSize }),
        ...(options.logFile === undefined ? {} : { logPath: options.logFile }),
        readOnly: options.readOnly === true || readOnly === true,
        background: options.background === true,
        signals: false,
      });
      if (mount.passthroughProblem !== undefined) {
        process.stderr.write(`penstock fs: no passthrough: ${mount.passthroughProblem}; the daemon serves the data\n`);
      }
      if (mount.storeProblem !== undefined) {
        process.stderr.write(
          `penstock fs: mounted, but its object store cannot be read: ${oneLine(mount.storeProblem)}; what this node has not cached has to wait for it\n`,
        );
      }
      print({ mountpoint: mount.mountpoint, supervisorPid: mount.supervisorPid }, options.json);
      reportToParent({ kind: 'mounted', mountpoint: mount.mountpoint });
      if (signal === undefined) return;
      const stop = (): void => void mount.stop();
      if (signal.aborted) stop();
      else signal.addEventListener('abort', stop, { once: true });
      if (!(await mount.ended)) process.exitCode = EXIT_FAILED;
    });

  fs.command('umount <mountpoint>')
    .description('write what is staged, then unmount')
    .option('--force', 'also when the flush failed; what is staged stays in the cache directory')
    .option('--lazy', 'also under open files')
    .option('--json', 'print as one JSON object')
    .action(async (mountpoint: string, options: Json & { readonly force?: true; readonly lazy?: true }) => {
      const { mountStats, umountVolume } = await import('../../fs-gateway/main.ts');
      const progress = stagedOnStderr(() => mountStats(mountpoint));
      const report = await umountVolume(mountpoint, {
        force: options.force === true,
        lazy: options.lazy === true,
      }).finally(() => progress.stop());
      print({ ...report }, options.json);
      if (!report.flushed && report.by === 'supervisor') process.exitCode = EXIT_PARTLY;
    });

  fs.command('stats <mountpoint>')
    .description('operations, latencies and cache of a mount since its worker began, or who uses it how much')
    .option('--watch', 'once a second what it did in that second, until Ctrl-C')
    .addOption(
      new Option('--by <what>', 'instead: who reads and writes how much, or which files')
        .choices(['pod', 'file'])
        .conflicts('watch'),
    )
    .option(
      '--json',
      'print as one JSON object (with --watch one a second, of all since the beginning), with --by as an array',
    )
    .action(async (mountpoint: string, options: StatsOptions) => {
      const { mountStats, mountUsage } = await import('../../fs-gateway/main.ts');
      const { drawRates, drawStats } = await import('./fs-stats.ts');
      if (options.watch === true) {
        await watch({
          look: () => mountStats(mountpoint),
          show: (before, now) => (options.json === true ? `${toJson(now.value)}\n` : drawRates(before, now)),
          json: options.json,
        });
        return;
      }
      if (options.by === undefined) {
        const stats = await mountStats(mountpoint);
        process.stdout.write(options.json === true ? `${toJson(stats)}\n` : drawStats(stats));
        return;
      }
      const { workloads, files } = await mountUsage(mountpoint);
      printTable(
        options.by === 'pod' ? workloads.map((each) => ({ ...each })) : files.map((each) => ({ ...each })),
        options.json,
      );
    });

  fs.command('upgrade <mountpoint>')
    .description('replace the worker of a mount by a new one; programs see nothing')
    .option('--json', 'print as one JSON object')
    .action(async (mountpoint: string, options: Json) => {
      const { upgradeMount } = await import('../../fs-gateway/main.ts');
      print({ ...(await upgradeMount(mountpoint)) }, options.json);
    });

  addFsToolCommands(fs);
  addFsSpaceCommands(fs);
}
