/** What RUNBOOK.md and INSTALL.md tell people to type: the objects are those of the chart, the commands and their options those of the command line. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { run } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { CHART, manifests, MATRIX, template, THREE_URLS } from './helm.ts';

const ROOT = join(CHART, '..', '..', '..');
const PENSTOCK = join(ROOT, 'bin', 'penstock');
const DOCUMENTS = ['RUNBOOK.md', 'INSTALL.md'];
const KINDS: Readonly<Record<string, string>> = {
  ...{ deploy: 'Deployment', ds: 'DaemonSet', cronjob: 'CronJob', service: 'Service', job: 'Job' },
};

/** Blocks of shell, and code within a line. */
function codeOf(document: string): string[] {
  const text = readFileSync(join(ROOT, 'docs', document), 'utf8');
  const blocks = [...text.matchAll(/^```sh\n([^]*?)^```/gm)].map(([, block = '']) => block.replaceAll('\\\n', ' '));
  const inline = [...text.replace(/^```[^]*?^```/gm, '').matchAll(/`([^`\n]+)`/g)].map(([, code = '']) => code);
  return [...blocks, ...inline];
}

/** `penstock WORDS` with its options, as it is typed in a pod or a shell. */
function commandsOf(document: string): { readonly words: string[]; readonly options: string[] }[] {
  return codeOf(document).flatMap((code) =>
    [...code.matchAll(/(?:^|-- |mounts )penstock ([a-z][^\n#|]*)/gm)].map(([, rest = '']) => {
      const tokens = rest.trim().split(/\s+/);
      const end = tokens.findIndex((token) => !/^[a-z][a-z-]*$/.test(token));
      return {
        words: tokens.slice(0, end === -1 ? tokens.length : end),
        options: tokens.flatMap((token) => /^--?[a-z][a-z-]*/.exec(token) ?? []),
      };
    }),
  );
}

describe('what the documents say to type', () => {
  it.skipIf(missing('helm'))('is about objects that the chart has', async () => {
    const path = join(tempDir('documents'), 'values.yaml');
    writeFileSync(path, stringify(MATRIX['everything']));
    const rendered = manifests(await template([...THREE_URLS, '-f', path]));
    const names = new Set(rendered.map(({ kind, metadata }) => `${kind}/${metadata.name}`));
    const components = new Set(JSON.stringify(rendered).match(/(?<="app\.kubernetes\.io\/component":")[a-z-]+/g));
    let found = 0;
    for (const document of DOCUMENTS) {
      const code = codeOf(document).join('\n');
      for (const [text, kind = '', name = ''] of code.matchAll(/\b([a-z]+)\/(penstock-[a-z-]+)/g)) {
        if (KINDS[kind] === undefined) continue;
        expect(names, `${document}: ${text}`).toContain(`${KINDS[kind]}/${name}`);
        found += 1;
      }
      for (const [, component = ''] of code.matchAll(/app\.kubernetes\.io\/component=([a-z-]+)/g)) {
        expect(components, document).toContain(component);
        found += 1;
      }
    }
    expect(found).toBeGreaterThan(15);
  });

  it('are commands of penstock, with options that these have', async () => {
    const commands = DOCUMENTS.flatMap(commandsOf);
    expect(commands.length).toBeGreaterThan(12);
    const helps = new Map<string, string>();
    for (const { words, options } of commands) {
      const name = words[0] === 'ctl' ? 'ctl' : words.join(' ');
      const help = helps.get(name) ?? (await run(PENSTOCK, [...name.split(' '), '--help'])).stdout;
      helps.set(name, help);
      expect(help.startsWith(`Usage: penstock ${name} `), `penstock ${name}`).toBe(true);
      const known = new Set(help.match(/(?<=[\s,])--?[a-z][a-z-]*/g));
      // What `ctl` takes beyond its own, the server says.
      for (const option of name === 'ctl' ? [] : options) expect(known, `penstock ${name} ${option}`).toContain(option);
    }
  });
});
