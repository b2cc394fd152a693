import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { bytes, ConfigError, duration, loadConfig, parseConfig } from '../../lib/config/load.ts';
import { tempDir } from '../support/temp.ts';

const schema = z.strictObject({
  log: z.string(),
  spool: z
    .strictObject({ maxBytes: bytes().default(10e9), whenFull: z.enum(['reject', 'dropOldest']).default('reject') })
    .prefault({}),
  every: duration().default(60_000),
  sources: z.array(z.strictObject({ path: z.string() })).default([]),
});

function problems(text: string): string[] {
  try {
    parseConfig(text, 'agent.yaml', schema);
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split('\n');
    throw error;
  }
  return [];
}

describe('configuration', () => {
  it('reads sizes, durations and defaults', () => {
    expect(parseConfig('log: file:x\nspool: { maxBytes: 1MiB }\nevery: 250ms\n', 'a.yaml', schema)).toEqual({
      log: 'file:x',
      spool: { maxBytes: 1 << 20, whenFull: 'reject' },
      every: 250,
      sources: [],
    });
  });

  it('takes what stands in the environment, and names the line of what does not', () => {
    process.env['PENSTOCK_TEST_URL'] = 'redis://:secret@h/1';
    expect(parseConfig('log: "${PENSTOCK_TEST_URL}?volume=$${X} ${lower}"\n', 'a.yaml', schema).log).toBe(
      'redis://:secret@h/1?volume=${X} ${lower}',
    );
    expect(problems('every: 5s\nlog: ${PENSTOCK_TEST_NOWHERE}\n')).toEqual([
      'agent.yaml:2: the environment variable PENSTOCK_TEST_NOWHERE is not set',
    ]);
  });

  it('names every problem at once, with line, key and what was expected', () => {
    const text =
      'log: file:x\nspool:\n  maxBytes: lots\n  whenFull: explode\nsources:\n  - { path: a }\n  - { paht: b }\ncolour: red\n';
    expect(problems(text)).toEqual([
      expect.stringMatching(/^agent\.yaml:3: spool\.maxBytes: 'lots' is not a size: expected/),
      'agent.yaml:4: spool.whenFull: expected one of reject, dropOldest',
      'agent.yaml:7: sources[1].path: missing: expected a text',
      'agent.yaml:7: sources[1].paht: unknown key',
      'agent.yaml:8: colour: unknown key',
    ]);
  });

  it('refuses what is not YAML, repeated keys and endless aliases, with the line', () => {
    expect(problems('log: [unclosed\n')[0]).toMatch(/^agent\.yaml:\d+: /);
    expect(problems('log: a\nlog: b\n')[0]).toBe(
      "agent.yaml:2: the key 'log' is there already: keys of one map differ",
    );
    const bomb = [
      'a: &a [x,x,x,x,x,x,x,x,x,x]',
      ...'bcdefgh'.split('').map((k, i) => `${k}: &${k} [${`*${'abcdefg'[i] ?? ''},`.repeat(10)}]`),
    ];
    expect(problems(bomb.join('\n'))[0]).toMatch(/alias/i);
  });

  it('a tab, a wrong indentation or a bare ${NAME} is one fault in words that say what to do, not a page of what follows from it', () => {
    const sources = 'log: a\nsources:\n  - path: b\n';
    expect(problems(`${sources}\tpoll: 1s\n    x: 1\n    y: 1\n`)).toEqual([
      'agent.yaml:4: a tab in the indentation: YAML takes spaces only',
    ]);
    const indented = problems(`${sources}     poll: 1s\n    x: 1\n`);
    expect(indented).toHaveLength(1);
    expect(indented[0]).toMatch(/^agent\.yaml:3: not YAML: .* indented as their neighbours/);
    expect(problems('log: a\nagent: { id: ${NAME}, listen: x }\n')).toEqual([
      "agent.yaml:2: not YAML: within { } and [ ], ${NAME} needs quotes, as '${NAME}'",
    ]);
  });

  it('a value of another kind is named by what YAML calls it', () => {
    expect(problems('log: [a]\n')).toEqual(['agent.yaml:1: log: expected a text, and this is a list']);
    expect(problems('log: a\nsources: 5\n')).toEqual(['agent.yaml:2: sources: expected a list, and this is a number']);
  });

  it('an empty file is an empty configuration: what is missing is named', () => {
    expect(problems('')).toEqual(['agent.yaml:1: log: missing: expected a text']);
  });

  it('names a file that is missing and resolves its folder', async () => {
    await expect(loadConfig('/nonexistent/x.yaml', schema)).rejects.toThrow(
      'configuration /nonexistent/x.yaml: no such file',
    );
    const dir = tempDir();
    writeFileSync(join(dir, 'p.yaml'), 'log: file:./log\n');
    expect((await loadConfig(join(dir, 'p.yaml'), schema)).baseDir).toBe(dir);
  });
});
