/** `penstock fs gc|fsck`: tools that work on a volume without a mount. */
import type { Command } from 'commander';
import { EXIT_PARTLY, print, toJson } from '../output.ts';

interface ToolOptions {
  readonly name?: string;
  readonly json?: true;
}

export function addFsToolCommands(fs: Command): void {
  fs.command('gc <meta-url>')
    .description('delete the objects that nothing refers to any more and whose grace period is over')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, options: ToolOptions) => {
      const { gcVolume } = await import('../../fs-gateway/main.ts');
      print({ ...(await gcVolume(metaUrl, options.name)) }, options.json);
    });

  fs.command('fsck <meta-url>')
    .description('check every record and object of a volume; exit status 3 when findings are left')
    .option('--repair', 'make right what can be made right without a guess')
    .option('--name <name>', "the volume's name (default: lake)")
    .option('--json', 'print as one JSON object')
    .action(async (metaUrl: string, options: ToolOptions & { readonly repair?: true }) => {
      const { fsckVolume } = await import('../../fs-gateway/main.ts');
      const { findings, ...counts } = await fsckVolume(metaUrl, options.repair === true, options.name);
      if (options.json === true) process.stdout.write(`${toJson({ ...counts, findings })}\n`);
      else {
        for (const { kind, text, repaired } of findings) {
          process.stdout.write(`${kind}: ${text}${repaired ? ' (repaired)' : ''}\n`);
        }
        print({ ...counts, findings: findings.length }, false);
      }
      if (findings.some((finding) => !finding.repaired)) process.exitCode = EXIT_PARTLY;
    });
}
