import { execFile, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, onTestFinished, test } from 'vitest';
import { validateAgent } from '../../../agent/main.ts';
import { isSameEntry } from '../../../agent/sources/journald/cursor.ts';
import { ExportParser, type Entry } from '../../../agent/sources/journald/export-format.ts';
import { journaldSource } from '../../../agent/sources/journald/journald-source.ts';
import { lookAt } from '../../../agent/sources/journald/journalctl.ts';
import { hasAnyOf, ownMatchesOf } from '../../../agent/sources/journald/own-entries.ts';
import type { Spool } from '../../../agent/spool/spool.ts';
import { AgentProcess } from '../../support/agent-process.ts';
import { cannotRunJournald, Journald, type EntryFields } from '../../support/journald.ts';
import { tempDir } from '../../support/temp.ts';
import { valuesIn } from '../log-values.ts';
import { contentOf, readAll, spoolIn } from '../spool/support.ts';
import { quarantinedIn, runSource, sourceConfig, type RunningSource } from './support.ts';

interface Started {
  readonly spool: Spool;
  readonly running: RunningSource;
  readonly end: () => Promise<void>;
}

/** A source of what `test` writes, unless `more` says otherwise, on the spool that is in `dir`. */
async function start(
  journal: string,
  dir: string,
  more: Record<string, unknown> = {},
  { maxBytes = 1e9, ...times }: { maxBytes?: number; heldMs?: number; silentMs?: number; moveOnMs?: number } = {},
): Promise<Started> {
  const config = sourceConfig({ type: 'journald', directory: journal, identifiers: ['test'], to: 't', ...more });
  const spool = await spoolIn(join(dir, 'spool'), { maxBytes });
  const running = runSource(journaldSource(config, times), spool, dir);
  const end = async (): Promise<void> => {
    await running.stop();
    await spool.close();
  };
  return { spool, running, end };
}

async function readingsOf(spool: Spool): Promise<Record<string, unknown>[]> {
  return contentOf(await readAll(spool)).map((value) => JSON.parse(String(value)) as Record<string, unknown>);
}

async function messagesOf(spool: Spool): Promise<unknown[]> {
  return (await readingsOf(spool)).map(({ message }) => message);
}

const numbered = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => `m${from + index}`);

/** Processes that this one started, of journalctl. */
function journalctlProcesses(): number[] {
  const pids = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8').trim().split(' ');
  return pids.filter((pid) => nameOf(pid) === 'journalctl').map(Number);
}

function nameOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    // It has just ended.
    return '';
  }
}

/** Until the test ends, `journalctl` is what lies in `dir`. */
function findJournalctlIn(dir: string): void {
  const path = process.env['PATH'];
  process.env['PATH'] = dir;
  onTestFinished(() => {
    process.env['PATH'] = path;
  });
}

describe.skipIf(cannotRunJournald())('with a journald', () => {
  test('an entry has its severity, unit, program and times; a field of bytes, one that occurs twice and one that is too large are told as such', async () => {
    const journald = await Journald.start();
    await journald.send(
      [
        [
          ['MESSAGE', 'ünit\nsecond line'],
          ['SYSLOG_IDENTIFIER', 'kubelet'],
          ['PRIORITY', '4'],
          ['SYSLOG_FACILITY', '3'],
          ['CODE', 'a'],
          ['CODE', 'b'],
          ['BLOB', Buffer.from([0xff, 0, 10, 61])],
          ['COREDUMP', Buffer.alloc(300_000, 'ä')],
        ],
      ],
      'kubelet.service',
    );
    await journald.send([[['MESSAGE', Buffer.from('caf\xe9', 'latin1')], ['SYSLOG_IDENTIFIER', 'test']]]); // prettier-ignore
    const more = {
      units: ['kubelet'],
      fields: ['CODE', 'BLOB', 'COREDUMP', 'NONE'],
      maxFieldBytes: 1001,
      sensor: 'app',
    };
    const { spool, running } = await start(journald.directory, tempDir(), more);
    await expect.poll(() => spool.lastSeq('t')).toBe(2n);
    const [first, second] = await readingsOf(spool);
    expect(first).toMatchObject({
      ...{ ts: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/) as unknown },
      ...{ severity: 4, facility: 3, unit: 'kubelet.service', app: 'kubelet', transport: 'journal' },
      ...{ message: 'ünit\nsecond line', bootId: expect.stringMatching(/^[0-9a-f]{32}$/) as unknown },
      ...{ procId: expect.stringMatching(/^\d+$/) as unknown, monotonicUs: expect.any(Number) as unknown },
      fields: { CODE: ['a', 'b'], BLOB: { base64: '/wAKPQ==' }, COREDUMP: `${'ä'.repeat(500)}\ufffd` },
      truncated: { COREDUMP: 300_000 },
    });
    expect(second).toMatchObject({ message: 'caf\ufffd', fields: { MESSAGE: { base64: 'Y2Fm6Q==' } } });
    expect(running.output.counters.events).toMatchObject({ field_cut: 1 });
    const [entry] = await readAll(spool);
    if (entry?.kind !== 'reading') throw new Error('no reading');
    const ts = String(first?.['ts']);
    expect([String(entry.key), entry.eventUs]).toEqual(['kubelet', Date.parse(ts) * 1000 + Number(ts.slice(23, 26))]);
  });

  test('what any of units, identifiers and matches names is taken, up to a severity; what is excluded is not', async () => {
    const journald = await Journald.start();
    const entry = (message: string, identifier: string, severity: string): [string, string][] => [
      ['MESSAGE', message],
      ['SYSLOG_IDENTIFIER', identifier],
      ['PRIORITY', severity],
    ];
    await journald.send([entry('of the unit', 'x', '3'), entry('too fine', 'x', '7')], 'sshd.service');
    await journald.send([
      entry('of the program', 'kernel', '4'),
      entry('another', 'cron', '3'),
      [...entry('of the match', 'y', '3'), ['LANE', 'a'], ['SIDE', 'left']],
      [...entry('half of the match', 'y', '3'), ['LANE', 'a'], ['SIDE', 'right']],
      [...entry('excluded', 'kernel', '3'), ['LANE', 'b']],
    ]);
    const more = {
      ...{ units: ['sshd'], identifiers: ['kernel'], matches: [['LANE=a', 'SIDE=left']] },
      ...{ severity: 'warning', exclude: ['LANE=b'] },
    };
    const { spool, running } = await start(journald.directory, tempDir(), more);
    await expect.poll(() => messagesOf(spool)).toEqual(['of the unit', 'of the program', 'of the match']);
    await expect.poll(() => running.output.counters.events['excluded']).toBe(1);
  });

  test('a cursor is longer than maxFieldBytes may be, and is not cut: a restart goes on behind it', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    const long = 'x'.repeat(100);
    await journald.say('m1', long);
    const before = await start(journald.directory, dir, { maxFieldBytes: 64 });
    await expect.poll(() => messagesOf(before.spool)).toEqual(['m1', long.slice(0, 64)]);
    await before.end();
    await journald.say('m2');
    const { spool, running } = await start(journald.directory, dir, { maxFieldBytes: 64 });
    await expect.poll(() => messagesOf(spool)).toEqual(['m1', long.slice(0, 64), 'm2']);
    expect(running.output.counters).toMatchObject({ problem: null, remark: null });
  });

  test('a sender whose fields are more than an entry may have does not hide which unit and process it is', async () => {
    const journald = await Journald.start();
    const large = ['a', 'b', 'c', 'd'].map((letter) => ['MESSAGE', letter.repeat(262_144)] as const);
    await journald.send([[['MESSAGE', 'm1'], ...large, ['LANE', 'a']]], 'large.service');
    const { spool } = await start(journald.directory, tempDir(), { identifiers: [], matches: ['LANE=a'] });
    await expect.poll(() => readingsOf(spool)).toMatchObject([{ message: 'm1', unit: 'large.service', procId: expect.stringMatching(/^\d+$/) as unknown, truncated: { MESSAGE: 1_048_578 } }]); // prettier-ignore
  });

  test('kill -9 of the agent loses no entry and doubles none', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    const yaml = `agent: { id: edge, dataDir: ./agent }\nlog: 'file:./log'\nuplink: { order: oldestFirst }\nsources: [{ type: journald, directory: ${journald.directory}, identifiers: [test], to: machine }]\n`;
    const agent = new AgentProcess(dir, yaml);
    for (let round = 0; round < 3; round += 1) {
      const saying = journald.say(...numbered(round * 1000, round * 1000 + 999));
      agent.start();
      await expect.poll(() => /^[1-9]/m.test(agent.output)).toBe(true);
      await agent.end('SIGKILL');
      await saying;
    }
    await journald.say('last');
    agent.start();
    await expect.poll(() => agent.output.trim().split('\n').at(-1)).toBe('3001');
    await agent.end('SIGTERM');
    const messages = (await valuesIn(dir, 'machine')).map((value) => String(value['message']));
    // One sensor, so one partition and one order.
    expect(messages).toEqual([...numbered(0, 2999), 'last']);
  });

  test('what was written before the machine was started anew is read: --follow alone shows the last boot only', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.say('m1');
    const before = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(before.spool)).toEqual(['m1']);
    await before.end();
    await journald.say('m2');
    await journald.boot('11111111-1111-4111-8111-111111111111');
    await journald.say('m3');
    const { spool, running } = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(spool)).toEqual(['m1', 'm2', 'm3']);
    expect(running.output.counters).toMatchObject({ problem: null, remark: null });
    expect(new Set((await readingsOf(spool)).map(({ bootId }) => bootId)).size).toBe(2);
  });

  test('entries that the journal removed while the agent was down are named, and none of what is left is passed over', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.say('m1');
    const before = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(before.spool)).toEqual(['m1']);
    await before.end();
    await journald.say('m2');
    await journald.rotate();
    await journald.say('m3', 'm4');
    journald.vacuum();
    const { spool, running, end } = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(spool)).toEqual(['m1', 'm3', 'm4']);
    expect(running.output.counters.remark).toMatch(/^the journal no longer holds the entry of .*: entries up to .* may be missing \(\d+ of the whole journal\)/); // prettier-ignore
    expect(running.output.counters.events).toMatchObject({ gap: 1 });
    expect(quarantinedIn(dir)).toMatchObject([{ reason: running.output.counters.remark, position: expect.stringMatching(/^s=/) as unknown }]); // prettier-ignore
    await end();
    const after = await start(journald.directory, dir);
    await journald.say('m5');
    await expect.poll(() => messagesOf(after.spool)).toEqual(['m1', 'm3', 'm4', 'm5']);
    expect(after.running.output.counters.events).not.toHaveProperty('gap');
  });

  test('a full spool ends journalctl; what the journal removed until there was room is named', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    const pad = Buffer.alloc(250_000, 'x');
    // More than the spool, the queue and the pipe hold.
    for (let n = 0; n < 100; n += 20) {
      const entries = numbered(n, n + 19).map((text): EntryFields => [['MESSAGE', text], ['PAD', pad], ['LANE', 'a']]); // prettier-ignore
      await journald.send(entries);
    }
    const more = { identifiers: [], matches: ['LANE=a'], fields: ['PAD'] };
    const { spool, running } = await start(journald.directory, dir, more, { maxBytes: 2 ** 20, heldMs: 20 });
    await expect.poll(() => running.output.counters.isHeldUp && journalctlProcesses().length === 0).toBe(true);
    await journald.rotate();
    await journald.send([[['MESSAGE', 'last'], ['LANE', 'a']]]); // prettier-ignore
    journald.vacuum();
    const messages: string[] = [];
    let after = 0n;
    const drained = async (): Promise<string | undefined> => {
      for (const entry of await spool.read('t', after, 64 * 1024)) {
        if (entry.kind !== 'reading') throw new Error('a gap in the spool');
        messages.push((JSON.parse(entry.value.toString()) as { message: string }).message);
        after = entry.seq;
      }
      spool.acknowledge('t', after);
      return messages.at(-1);
    };
    await expect.poll(drained).toBe('last');
    expect(messages).toEqual([...numbered(0, messages.length - 2), 'last']);
    expect(messages.length).toBeLessThan(101);
    expect(running.output.counters.events).toMatchObject({ gap: 1 });
    expect(running.output.counters.events).not.toHaveProperty('process_end');
  });

  test('a program that writes seldom, whose last entry was removed when there was nothing behind it, names no gap', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.say('m1');
    const before = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(before.spool)).toEqual(['m1']);
    await before.end();
    await journald.rotate();
    await journald.send([[['MESSAGE', 'other'], ['SYSLOG_IDENTIFIER', 'other']]]); // prettier-ignore
    const silent = await start(journald.directory, dir, {}, { moveOnMs: 0 });
    const cursor = (): unknown => silent.running.output.checkpoint(silent.running.output.checkpointKeys('journald:')[0] ?? ''); // prettier-ignore
    const first = cursor();
    await expect.poll(cursor).not.toEqual(first);
    await silent.end();
    journald.vacuum();
    await journald.say('m2');
    const { spool, running } = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(spool)).toEqual(['m1', 'm2']);
    expect(running.output.counters).toMatchObject({ remark: null, quarantined: 0 });
  });

  test('a configuration that takes other entries than before goes on where reading was, and names no gap', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.say('m1');
    const before = await start(journald.directory, dir);
    await expect.poll(() => messagesOf(before.spool)).toEqual(['m1']);
    await before.end();
    await journald.send([[['MESSAGE', 'other'], ['SYSLOG_IDENTIFIER', 'other']]]); // prettier-ignore
    const { spool, running } = await start(journald.directory, dir, { identifiers: ['other'] });
    await expect.poll(() => messagesOf(spool)).toEqual(['m1', 'other']);
    expect(running.output.counters).toMatchObject({ remark: null, quarantined: 0 });
  });

  test('start: end passes over what is there, also where the agent is down before the next entry', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.say('m1');
    const end = await start(journald.directory, dir, { start: 'end' });
    await expect.poll(() => end.running.output.checkpointKeys('journald:')).toHaveLength(1);
    await end.end();
    await journald.say('m2');
    const again = await start(journald.directory, dir, { start: 'end' });
    await expect.poll(() => messagesOf(again.spool)).toEqual(['m2']);
  });

  test('start: boot passes over what other boots wrote; what is written while the agent is down is read after the next boot, also where nothing was taken before', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.boot('22222222-2222-4222-8222-222222222222');
    // This machine's boot begins below only.
    await journald.rotate();
    journald.vacuum();
    await journald.say('m1');
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    await journald.boot(bootId);
    const boot = await start(journald.directory, dir, { start: 'boot' });
    await expect.poll(() => boot.running.output.checkpointKeys('journald:')).toHaveLength(1);
    await boot.end();
    await journald.say('m2');
    await journald.boot('33333333-3333-4333-8333-333333333333');
    await journald.say('m3');
    const { spool, running } = await start(journald.directory, dir, { start: 'boot' });
    await expect.poll(() => messagesOf(spool)).toEqual(['m2', 'm3']);
    expect(running.output.counters).toMatchObject({ problem: null, remark: null });
    // Its first entry is one of those that it asks for.
    const whole = await start(journald.directory, tempDir(), { start: 'boot', identifiers: [], fields: ['PRIORITY'] });
    await expect.poll(async () => (await messagesOf(whole.spool)).includes('m3')).toBe(true);
    const args = [
      `--directory=${journald.directory}`,
      '--merge',
      '--output=cat',
      `_BOOT_ID=${bootId.replaceAll('-', '')}`,
    ];
    const [first] = String(spawnSync('journalctl', args).stdout).split('\n');
    expect((await messagesOf(whole.spool))[0]).toBe(first);
  });

  test('a journalctl that ends is started again, and says why; a journal that appears in a folder that was not there is found', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    await journald.say('m1');
    const { spool, running } = await start(join(dir, 'absent'), dir);
    await expect
      .poll(() => running.output.counters.problem)
      .toMatch(/^journalctl ended \(status 1\): Failed to open .*absent: No such file/);
    symlinkSync(journald.directory, join(dir, 'absent'));
    await expect.poll(() => messagesOf(spool)).toEqual(['m1']);
    expect(running.output.counters.problem).toBeNull();
    for (const pid of journalctlProcesses()) process.kill(pid, 'SIGKILL');
    await journald.say('m2');
    await expect.poll(() => messagesOf(spool)).toEqual(['m1', 'm2']);
  });

  test('an agent that may not read the journal, or a part of it, says what it needs', async (context) => {
    const journald = await Journald.start();
    await journald.say('m1');
    await journald.rotate();
    const [machine = ''] = readdirSync(journald.directory);
    const folder = join(journald.directory, machine);
    const setModes = (mode: (name: string) => number): void => {
      for (const name of readdirSync(folder)) chmodSync(join(folder, name), mode(name));
    };
    for (const path of [folder, journald.directory, join(journald.directory, '..')]) chmodSync(path, 0o755);
    // TMPDIR may lie below a folder that only root can enter.
    const reach = ['--reuid=65534', '--regid=65534', '--clear-groups', 'test', '-x', journald.directory];
    context.skip(spawnSync('setpriv', reach).status !== 0, 'another user cannot reach the folder of the test');
    const bin = tempDir('bin');
    // Of root's rights, journalctl gets none.
    const rights = 'setpriv --reuid=65534 --regid=65534 --clear-groups';
    const path = process.env['PATH'] ?? '';
    writeFileSync(join(bin, 'journalctl'), `#!/bin/sh\nPATH='${path}'\nexec ${rights} journalctl "$@"\n`);
    chmodSync(join(bin, 'journalctl'), 0o755);
    findJournalctlIn(bin);
    setModes(() => 0o600);
    const none = await start(journald.directory, tempDir());
    const why = /the agent may not read the whole journal: run it as root, or in the group systemd-journal/;
    await expect.poll(() => none.running.output.counters.problem).toMatch(why);
    setModes((name) => (name === 'system.journal' ? 0o600 : 0o644));
    const part = await start(journald.directory, tempDir());
    await expect.poll(() => messagesOf(part.spool)).toEqual(['m1']);
    expect(part.running.output.counters.problem).toMatch(why);
  });

  test('a damaged file is named, and the others are read', async () => {
    const journald = await Journald.start();
    await journald.say('m1');
    const [machine = ''] = readdirSync(journald.directory);
    writeFileSync(join(journald.directory, machine, 'system@damaged.journal'), Buffer.alloc(100, 1));
    const { spool, running } = await start(journald.directory, tempDir());
    await expect.poll(() => messagesOf(spool)).toEqual(['m1']);
    expect(running.output.counters.problem).toMatch(/system@damaged\.journal is .*, ignoring file/);
  });

  test('without a journal, the source says so; one that comes later is read', async () => {
    const journald = await Journald.start();
    const dir = tempDir();
    mkdirSync(join(dir, 'journal'));
    const { spool, running } = await start(join(dir, 'journal'), dir, {}, { silentMs: 5000 });
    await expect.poll(() => running.output.counters.problem).toMatch(/^journalctl finds no journal: there is none in/);
    rmdirSync(join(dir, 'journal'));
    symlinkSync(journald.directory, join(dir, 'journal'));
    await journald.say('m1');
    await expect.poll(() => messagesOf(spool)).toEqual(['m1']);
    await expect.poll(() => running.output.counters.problem).toBeNull();
  });
});

test('without journalctl, the source says what to install', async () => {
  const dir = tempDir();
  mkdirSync(join(dir, 'bin'));
  findJournalctlIn(join(dir, 'bin'));
  const { running } = await start(dir, dir);
  await expect.poll(() => running.output.counters.problem).toMatch(/^there is no journalctl on the PATH: install it/);
});

test('a journalctl for which there are no descriptors, or whose arguments are too long, is a reason and no end of the agent', async () => {
  const module = new URL('../../../agent/sources/journald/journalctl.ts', import.meta.url).href;
  const program = `
    import { openSync } from 'node:fs';
    import { lookAt } from ${JSON.stringify(module)};
    try { for (;;) openSync('/dev/null', 'r'); } catch {}
    await lookAt([], new AbortController().signal).catch(({ code, message }) => process.stdout.write(code + ': ' + message));
  `;
  const args = ['-c', 'ulimit -n 100 && exec "$@"', 'sh', process.execPath, '--input-type=module', '--eval', program];
  const { stdout } = await promisify(execFile)('sh', args);
  expect(stdout).toMatch(/^unavailable: journalctl cannot be started: .*EMFILE/);
  const tooLong = lookAt(['x'.repeat(200_000)], new AbortController().signal);
  await expect(tooLong).rejects.toThrow(/^journalctl cannot be started: .*E2BIG/);
});

test('the export format gives the same entries however it is cut into pieces', () => {
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(5n);
  const bytes = Buffer.concat([
    Buffer.from('__CURSOR=c1\nMESSAGE=a=b\nEMPTY=\nBLOB\n'),
    ...[size, Buffer.from('x\n\0=\n\n'), Buffer.from('MESSAGE=twice\n\n__CURSOR=c2\nMESSAGE=too long\n\n__CURSOR=cut')],
  ]);
  const entriesOf = (step: number): unknown => {
    const parser = new ExportParser(6);
    const found: unknown[] = [];
    for (let at = 0; at < bytes.length; at += step) {
      for (const { fields } of parser.push(bytes.subarray(at, at + step))) {
        found.push(
          [...fields].map(([name, values]) => [name, ...values.map((value) => [String(value.bytes), value.size])]),
        );
      }
    }
    return found;
  };
  const expected = [
    [['__CURSOR', ['c1', 2]], ['MESSAGE', ['a=b', 3], ['twice', 5]], ['EMPTY', ['', 0]], ['BLOB', ['x\n\0=\n', 5]]],
    [['__CURSOR', ['c2', 2]], ['MESSAGE', ['too lo', 8]]],
  ]; // prettier-ignore
  for (let step = 1; step <= bytes.length; step += 1) expect(entriesOf(step)).toEqual(expected);
});

test('an entry keeps its identity when the journal moves from /run to /var', () => {
  const inRun = 's=aa;i=5;b=bb;m=10;t=20;x=ff';
  expect(isSameEntry(inRun, 's=cc;i=77;b=bb;m=10;t=20;x=ff')).toBe(true);
  expect(isSameEntry(inRun, 's=aa;i=6;b=bb;m=11;t=21;x=ff')).toBe(false);
  // Two lines of one write.
  expect(isSameEntry(inRun, 's=aa;i=6;b=bb;m=10;t=20;x=ff')).toBe(false);
});

test("the agent's own entries are those of its service or container, not of a person's session or the runtime's service", () => {
  expect(ownMatchesOf('0::/system.slice/penstock-agent.service\n', 'node')).toEqual(['_SYSTEMD_UNIT=penstock-agent.service']); // prettier-ignore
  expect(ownMatchesOf('12:cpu:/x.service\n1:name=systemd:/system.slice/a.service\n0::/\n', 'node')).toEqual(['_SYSTEMD_UNIT=a.service']); // prettier-ignore
  expect(ownMatchesOf('0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n', 'node')).toEqual(['_SYSTEMD_USER_UNIT=a.service']); // prettier-ignore
  expect(ownMatchesOf('0::/user.slice/user-1000.slice/session-3.scope\n', 'node')).toEqual([]);
  expect(ownMatchesOf('1:name=systemd:/system.slice/containerd.service/kubepods/pod1/abc\n', 'node')).toEqual([]);
  expect(ownMatchesOf('0::/\n', '0123456789ab')).toEqual([['CONTAINER_ID=0123456789ab', '_UID=0']]);
});

test("a user who writes the id of the agent's container hides nothing: only root's entries with it are the agent's own", () => {
  const own = ownMatchesOf('0::/\n', '0123456789ab');
  const entryOf = (uid: string): Entry => {
    const [entry] = new ExportParser(64).push(Buffer.from(`CONTAINER_ID=0123456789ab\n_UID=${uid}\n\n`));
    if (entry === undefined) throw new Error('no entry');
    return entry;
  };
  expect(['0', '1000'].map((uid) => hasAnyOf(entryOf(uid), own))).toEqual([true, false]);
});

test('keys of the source that are none are named', async () => {
  const dir = tempDir();
  const path = join(dir, 'agent.yaml');
  const source = '{ type: journald, units: ["kube*"], matches: [kernel], severity: warn, fields: [message], to: t }';
  writeFileSync(path, `agent: { id: a }\nlog: file:./log\nsources: [${source}]\n`);
  const problems = (await validateAgent(path)).map(({ message }) => message).join('\n');
  expect(problems).toContain('expected the name of a unit, without wildcards');
  expect(problems).toContain('expected FIELD=value, as _TRANSPORT=kernel');
  expect(problems).toContain('expected the name of a field of the journal, as MESSAGE_ID');
  for (const [one, other] of [
    ['', ''],
    ['', 'directory: /var/log/journal/, '],
    ['directory: /mnt/./journal, ', 'directory: /mnt/journal/, '],
  ]) {
    const same = `{ type: journald, ${one}to: u }, { type: journald, ${other}to: u }`;
    writeFileSync(path, `agent: { id: a }\nlog: file:./log\nsources: [${same}]\n`);
    expect((await validateAgent(path))[0]?.message).toContain(
      'two journald sources read the same journal into one topic',
    );
  }
});
