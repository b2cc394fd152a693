/** docs/CLI.md, the other documents and the examples of `--help` against the command line itself, which is built here and not started. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { expect, test } from 'vitest';
import { EXAMPLES } from '../../bin/examples.ts';
import { makeProgram } from '../../bin/program.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const DOCS = join(ROOT, 'docs');
const documents = [
  join(ROOT, 'README.md'),
  ...readdirSync(DOCS)
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(DOCS, name)),
].map((path) => readFileSync(path, 'utf8'));

function leavesOf(command: Command, path: readonly string[] = []): (readonly [path: string, command: Command])[] {
  if (command.commands.length === 0) return [[path.join(' '), command]];
  return command.commands.flatMap((each) => leavesOf(each, [...path, each.name()]));
}

const leaves = new Map(leavesOf(makeProgram()));
const flagsOf = (name: string): string[] =>
  leaves.get(name)?.options.flatMap(({ long, short }) => [long, short].filter((flag) => typeof flag === 'string')) ??
  [];
/** `-c`, `--dry-run`, as somebody types them or as a reference shows them in brackets. */
const flagsIn = (text: string): string[] => text.match(/(?<=^|[\s[|])--?[a-z][a-z-]*/g) ?? [];

/** `quarantine list|show -c F` -> the commands that it names, below what of `path` they are found. */
function namedBy(text: string, path: readonly string[]): string[] {
  const words = text.split(' ');
  const end = words.findIndex((word) => !/^[a-z][a-z|-]*$/.test(word));
  const own = words.slice(0, end === -1 ? words.length : end);
  const names = own.reduce<string[]>(
    (heads, word) => heads.flatMap((head) => word.split('|').map((each) => `${head} ${each}`.trim())),
    [''],
  );
  for (let depth = path.length; depth >= 0; depth--) {
    const below = names.map((name) => [...path.slice(0, depth), name].join(' '));
    if (below.every((name) => leaves.has(name))) return below;
  }
  throw new Error(`docs/CLI.md: there is no command '${text}'`);
}

test('each row of docs/CLI.md is commands that there are, with options that they have, and no command is without a row', () => {
  const rows = readFileSync(join(DOCS, 'CLI.md'), 'utf8').match(/^\| `penstock .*?`(?=\s+\|)/gm) ?? [];
  const known = new Set<string>();
  for (const row of rows) {
    let path: string[] = [];
    for (const [, span = ''] of row.replaceAll('\\|', '|').matchAll(/`([^`]+)`/g)) {
      const names = namedBy(span.replace(/^penstock /, ''), path);
      for (const name of names) known.add(name);
      const flags = new Set(names.flatMap(flagsOf));
      // What `ctl` takes beyond its own, the server says.
      if (!names.includes('ctl')) for (const flag of flagsIn(span)) expect(flags, span).toContain(flag);
      path = names[0]?.split(' ') ?? [];
    }
  }
  expect([...leaves.keys()].filter((name) => !known.has(name))).toEqual([]);
});

test('each option of each command stands in a document', () => {
  const written = new Set(documents.flatMap((text) => text.match(/--[a-z][a-z-]*/g) ?? []));
  const unwritten = [...leaves].flatMap(([name, { options }]) =>
    options.filter(({ long }) => long !== undefined && !written.has(long)).map(({ flags }) => `${name} ${flags}`),
  );
  expect(unwritten).toEqual([]);
});

test('the examples of --help are taken by the commands that show them', () => {
  for (const [name, rest] of EXAMPLES) {
    const command = makeProgram();
    const words = (rest.match(/"[^"]*"|'[^']*'|\S+/g) ?? []).map((word) => word.replace(/^(["'])(.*)\1$/, '$2'));
    let taken = false;
    const leaf = leavesOf(command).find(([path]) => path === name)?.[1];
    leaf?.action(() => void (taken = true));
    command.parse([...name.split(' '), ...words], { from: 'user' });
    expect(taken, `penstock ${name} ${rest}`).toBe(true);
  }
});
