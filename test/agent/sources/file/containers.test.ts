/** Logs of containers: what the runtime cut is put together, by stream, once; and files that are left alone. */
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import { systemClock, type Clock } from '../../../../lib/clock.ts';
import { AgentProcess } from '../../../support/agent-process.ts';
import { heldBytes } from '../../../support/held-memory.ts';
import { tempDir } from '../../../support/temp.ts';
import { valuesIn } from '../../log-values.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, quarantinedIn, runSource } from '../support.ts';

interface Message {
  readonly ts: string;
  readonly stream: string;
  readonly message: string;
}

async function messagesIn(spool: Spool): Promise<Message[]> {
  return contentOf(await readAll(spool)).map((value) => JSON.parse(String(value)) as Message);
}

/** The nth second of a day. */
function timeAt(second: number): string {
  return `${new Date(Date.UTC(2026, 10, 28) + second * 1000).toISOString().slice(0, 23)}456789Z`;
}

/** Its clock passes when the test says so: not while the rest of a message is on its way, however slow the machine is. */
function standingClock(): { clock: Clock; pass: (ms: number) => void } {
  let nowMs = 0;
  return { clock: { ...systemClock, monotonicMs: () => nowMs }, pass: (ms) => (nowMs += ms) };
}

const ID = '0123456789abcdef'.repeat(4);

/** As the kubelet lays them out: a link in `containers` to the file in `pods`. */
function podLog(dir: string, container = 'web'): { file: string; link: string; glob: string } {
  const file = join(dir, `pods/plant_app-7d9f-x2x_1234-uid/${container}/0.log`);
  const link = join(dir, `containers/app-7d9f-x2x_plant_${container}-${ID}.log`);
  for (const path of [file, link]) mkdirSync(dirname(path), { recursive: true });
  writeFileSync(file, '');
  symlinkSync(file, link);
  return { file, link, glob: join(dir, 'containers/*.log') };
}

test('pieces of messages are joined by stream, with the names of pod and container, time and stream', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir, 'side-car');
  appendFileSync(
    file,
    [
      `${timeAt(1)} stdout P one, `,
      `${timeAt(2)} stderr F its own`,
      `${timeAt(3)} stdout P two, `,
      `${timeAt(4)} stderr P a`,
      `${timeAt(5)} stdout F:tag three "ü" \\`,
      'no line of a container',
      `${timeAt(6)} stderr F b`,
      `${timeAt(7)} stdout F `,
      '',
    ].join('\n'),
  );
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(glob, { format: 'cri', sensor: 'pod' }), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(3n);
  const names = { namespace: 'plant', pod: 'app-7d9f-x2x', podUid: '1234-uid', container: 'side-car', containerId: ID };
  expect(await messagesIn(spool)).toEqual([
    { ts: timeAt(2), stream: 'stderr', ...names, message: 'its own' },
    { ts: timeAt(1), stream: 'stdout', ...names, message: 'one, two, three "ü" \\' },
    { ts: timeAt(4), stream: 'stderr', ...names, message: 'ab' },
  ]);
  const [first] = await readAll(spool);
  if (first?.kind !== 'reading') throw new Error('expected a reading');
  expect([String(first.key), first.eventUs]).toEqual([
    'app-7d9f-x2x',
    Date.parse('2026-11-28T00:00:02.000Z') * 1000 + 456,
  ]);
  expect(quarantinedIn(dir)).toMatchObject([{ text: 'no line of a container' }]);
  expect(output.counters.events).toEqual({});
});

test("Docker's files: a message goes on until its line end is there", async () => {
  const dir = tempDir();
  const path = join(dir, `${ID}-json.log`);
  const line = (log: string, second: number): string =>
    `${JSON.stringify({ log, stream: 'stdout', time: timeAt(second) })}\n`;
  writeFileSync(path, `${line('a ', 1)}${line('b\n', 2)}{"log":1}\n${line('c\n', 3)}`);
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(fileConfig(path, { format: 'docker' }), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(2n);
  expect(await messagesIn(spool)).toEqual([
    { ts: timeAt(1), stream: 'stdout', containerId: ID, message: 'a b' },
    { ts: timeAt(3), stream: 'stdout', containerId: ID, message: 'c' },
  ]);
  expect(quarantinedIn(dir)).toMatchObject([{ text: '{"log":1}' }]);
});

/** Both streams always have something under way, stdout three pieces for one of stderr: a message of one begins and ends within one of the other. */
class Writer {
  readonly written = { stdout: [] as string[], stderr: [] as string[] };
  readonly #waiting = { stdout: [] as string[], stderr: [] as string[] };
  #count = 0;

  write(pieces: number): string {
    const lines: string[] = [];
    for (let index = 0; index < pieces; index += 1) {
      const stream = index % 4 === 3 ? 'stderr' : 'stdout';
      if (this.#waiting[stream].length === 0) this.#begin(stream);
      lines.push(...this.#waiting[stream].splice(0, 1));
    }
    return lines.join('');
  }

  /** The ends of what is begun. */
  end(): string {
    return Object.values(this.#waiting)
      .flatMap((pieces) => pieces.splice(0))
      .join('');
  }

  #begin(stream: 'stdout' | 'stderr'): void {
    const n = (this.#count += 1);
    const lines = [
      `[${n}] begins ${'x'.repeat(n % 400)}`,
      ...Array.from({ length: n % 3 }, (_, i) => `  at f${i} of ${n}`),
    ];
    this.written[stream].push(lines.join('\n'));
    const pieces = lines.flatMap((line) => piecesOf(line, n));
    this.#waiting[stream].push(...pieces.map((piece) => `${timeAt(n / 1000)} ${stream} ${piece}\n`));
  }
}

function piecesOf(line: string, n: number): string[] {
  const size = 1 + (n % 97);
  const pieces = Array.from({ length: Math.ceil(line.length / size) }, (_, i) => line.slice(i * size, (i + 1) * size));
  return pieces.map((piece, index) => `${index < pieces.length - 1 ? 'P' : 'F'} ${piece}`);
}

test('under kill -9, again and again, and rotation, each message of both streams is in the log once, whole and in its order', async () => {
  const dir = tempDir();
  const { file } = podLog(dir);
  const agent = new AgentProcess(
    dir,
    `agent: { id: a, dataDir: ./data }
log: file:./log
uplink: { order: oldestFirst }
sources: [{ type: file, path: ./containers/*.log, format: cri, sensor: pod, to: machine, poll: 10ms, multiline: { start: '^\\[', timeout: 10m } }]
`,
  );
  const writer = new Writer();
  const written = (): number => Object.values(writer.written).flat().length;
  const accepted = (): number => Number(agent.output.trim().split('\n').at(-1));
  for (let kill = 0; kill < 3; kill += 1) {
    const before = written();
    appendFileSync(file, writer.write(2000));
    agent.start();
    const writing = setInterval(() => {
      const text = writer.write(20);
      // Cut within a line.
      appendFileSync(file, text.slice(0, text.length / 2));
      appendFileSync(file, text.slice(text.length / 2));
    }, 5);
    await expect.poll(accepted, { interval: 10 }).toBeGreaterThan(before);
    clearInterval(writing);
    await agent.end('SIGKILL');
    if (kill === 1) {
      appendFileSync(file, writer.end());
      renameSync(file, `${file}.20261128-101112`);
      writeFileSync(file, '');
    }
  }
  // The last message of each stream ends where another one begins, at no time that a slow machine could miss.
  const others = ['stdout', 'stderr'].map((stream) => `${timeAt(60)} ${stream} F [another]\n`);
  appendFileSync(file, [writer.end(), ...others].join(''));
  agent.start();
  await expect.poll(accepted).toBe(written());
  expect(await agent.end('SIGTERM')).toBe(0);
  const messages = (await valuesIn(dir, 'machine')) as unknown as Message[];
  for (const [stream, texts] of Object.entries(writer.written)) {
    const found = messages.filter((each) => each.stream === stream).map(({ message }) => message);
    const other = found.findIndex((text, index) => text !== texts[index]);
    expect([found.length, found[other]?.slice(0, 100)]).toEqual([texts.length, undefined]);
  }
});

test('what has no end is given out when the log or the clock says that none comes, and counted; so is what is too large', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir);
  const { clock, pass } = standingClock();
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(glob, { format: 'cri', maxMessageBytes: '100B' });
  const { output } = runSource(await fileSource(config, '/'), spool, dir, clock);
  appendFileSync(
    file,
    [
      `${timeAt(0)} stdout P ${'x'.repeat(60)}`,
      `${timeAt(0)} stdout P ${'y'.repeat(60)}`,
      `${timeAt(1)} stderr F not yet over`,
      `${timeAt(31)} stderr F it is over`,
      `${timeAt(32)} stdout P by the clock`,
      '',
    ].join('\n'),
  );
  const messages = async (): Promise<string[]> => (await messagesIn(spool)).map(({ message }) => message);
  await expect.poll(messages).toEqual(['x'.repeat(60), 'not yet over', 'y'.repeat(60), 'it is over']);
  await expect
    .poll(() => {
      pass(30_000);
      return spool.lastSeq('t');
    })
    .toBe(5n);
  expect((await messages()).at(-1)).toBe('by the clock');
  expect(output.counters.events).toEqual({ partial_cut: 3 });
});

test('a character that a cut divides does not send the two parts to the quarantine, and a CR within a message stays', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir);
  const euro = Buffer.from('€');
  const pieces: [second: number, tag: string, text: (string | Buffer)[]][] = [
    // Of a message that began in the file before this one.
    [0, 'F', [euro.subarray(2), 'rotated']],
    [1, 'P', ['x'.repeat(60), euro.subarray(0, 1)]],
    [1, 'P', [euro.subarray(1), 'y'.repeat(60), euro.subarray(0, 2)]],
    [40, 'P', [euro.subarray(2), 'late ', euro.subarray(0, 2)]],
    [40, 'P', [euro.subarray(2), 'a\r']],
    [40, 'F', ['b\r']],
    // Nothing is cut here.
    [41, 'F', [euro.subarray(2), '1']],
    [41, 'F', ['2', euro.subarray(0, 2)]],
  ];
  const parts = pieces.flatMap(([second, tag, text]) => [`${timeAt(second)} stdout ${tag} `, ...text, '\n']);
  appendFileSync(file, Buffer.concat(parts.map((part) => Buffer.from(part))));
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(glob, { format: 'cri', maxMessageBytes: '100B' });
  const { output } = runSource(await fileSource(config, '/'), spool, dir, standingClock().clock);
  await expect.poll(() => spool.lastSeq('t')).toBe(4n);
  expect((await messagesIn(spool)).map(({ message }) => message)).toEqual([
    '\ufffdrotated',
    `${'x'.repeat(60)}\ufffd`,
    `\ufffd${'y'.repeat(60)}\ufffd`,
    '\ufffdlate €a\rb',
  ]);
  expect(quarantinedIn(dir).map(({ base64 }) => base64)).toEqual(
    [
      [euro.subarray(2), '1'],
      ['2', euro.subarray(0, 2)],
    ].map((text) => Buffer.concat(text.map((part) => Buffer.from(part))).toString('base64')),
  );
  expect(output.counters.events).toEqual({ partial_cut: 2 });
});

test('a beginning without an end does not keep in memory what the other stream goes on to say', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir);
  const { clock, pass } = standingClock();
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(glob, { format: 'cri' });
  const before = heldBytes();
  const running = runSource(await fileSource(config, '/'), spool, dir, clock);
  const said = `${timeAt(1)} stderr F ${'x'.repeat(16_000)}\n`.repeat(500);
  appendFileSync(file, `${timeAt(1)} stdout P begun\n`);
  for (let part = 1; part <= 5; part += 1) {
    appendFileSync(file, said);
    await expect.poll(() => spool.lastSeq('t')).toBe(BigInt(part * 500));
  }
  // What was read since the beginning is 40 MB.
  expect(heldBytes() - before).toBeLessThan(20e6);
  pass(30_000);
  await expect.poll(() => spool.lastSeq('t')).toBe(2501n);
  await running.stop();
  appendFileSync(file, `${timeAt(2)} stdout F later\n`);
  runSource(await fileSource(config, '/'), spool, dir, clock);
  await expect.poll(() => spool.lastSeq('t')).toBe(2502n);
  expect((await messagesIn(spool)).slice(-2).map(({ message }) => message)).toEqual(['begun', 'later']);
});

test('a beginning whose runtime was killed is not put together with what its stream says later', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir);
  appendFileSync(file, `${timeAt(1)} stdout P begun\n${timeAt(3601)} stdout P hel\n${timeAt(3602)} stdout F lo\n`);
  const spool = await spoolIn(join(dir, 'spool'));
  const { clock } = standingClock();
  const { output } = runSource(await fileSource(fileConfig(glob, { format: 'cri' }), '/'), spool, dir, clock);
  await expect.poll(() => spool.lastSeq('t')).toBeGreaterThan(0n);
  expect((await messagesIn(spool)).map(({ message }) => message)).toEqual(['begun', 'hello']);
  expect(output.counters.events).toEqual({ partial_cut: 1 });
});

test('what one stream gave out while the other one had a beginning is not said of other content in the place of it', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir);
  const { clock } = standingClock();
  const config = fileConfig(glob, { format: 'cri' });
  appendFileSync(file, `${timeAt(1)} stdout P begun\n${timeAt(1)} stderr F given out\n`);
  for (const expected of [1n, 3n]) {
    const spool = await spoolIn(join(dir, 'spool'));
    const running = runSource(await fileSource(config, '/'), spool, dir, clock);
    await expect.poll(() => spool.lastSeq('t')).toBe(expected);
    await running.stop();
    await spool.close();
    truncateSync(file);
    appendFileSync(file, `${timeAt(2)} stderr F other 1\n${timeAt(2)} stderr F other 2\n`);
  }
});

/** Of a file whose first line is the beginning of a message that has no end yet, while the agent is down. */
const MOVES: { what: string; move: (file: string, spool: Spool) => unknown }[] = [
  {
    what: 'is on a device that got another number',
    move: async (_, spool) => {
      const [key = ''] = spool.checkpointSources('file:');
      const state = spool.checkpoint(key) ?? null;
      const other = { source: key.replace(/\|\d+:/, '|987654:'), state };
      await spool.append([], [{ source: key, state: null }, other]);
    },
  },
  {
    what: 'was copied and truncated',
    move: (file) => {
      copyFileSync(file, `${file}.1`);
      truncateSync(file);
    },
  },
  {
    what: 'was compressed',
    move: (file) => {
      writeFileSync(`${file}.1.gz`, gzipSync(readFileSync(file)));
      // Made before the other one is gone, whose inode it could get.
      writeFileSync(`${file}.new`, '');
      renameSync(`${file}.new`, file);
    },
  },
];

test.each(MOVES)(
  'what was read behind a beginning at the head of a file is known again where the file $what',
  async ({ move }) => {
    const dir = tempDir();
    const { file, glob } = podLog(dir);
    const { clock } = standingClock();
    const spool = await spoolIn(join(dir, 'spool'));
    const config = fileConfig(glob, { format: 'cri' });
    appendFileSync(file, `${timeAt(1)} stdout P begun\n${timeAt(1)} stderr F given out\n`);
    const before = runSource(await fileSource(config, '/'), spool, dir, clock);
    await expect.poll(() => spool.lastSeq('t')).toBe(1n);
    await before.stop();
    appendFileSync(file, `${timeAt(2)} stdout F , ended\n`);
    await move(file, spool);
    appendFileSync(file, `${timeAt(3)} stdout F last\n`);
    runSource(await fileSource(config, '/'), spool, dir, clock);
    await expect.poll(() => spool.lastSeq('t')).toBeGreaterThanOrEqual(3n);
    expect((await messagesIn(spool)).map(({ message }) => message)).toEqual(['given out', 'begun, ended', 'last']);
  },
);

test('the last message of a rotated file waits for its timeout, and only what took its place for that', async () => {
  const dir = tempDir();
  const { file, glob } = podLog(dir, 'web');
  const other = podLog(dir, 'other');
  const { clock, pass } = standingClock();
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(glob, { format: 'cri', multiline: { start: String.raw`^\[`, timeout: '1h' } });
  const linesOf = (...numbers: number[]): string => numbers.map((n) => `${timeAt(n)} stdout F [${n}]\n`).join('');
  appendFileSync(file, linesOf(1, 2));
  const before = runSource(await fileSource(config, '/'), spool, dir, clock);
  await expect.poll(() => spool.lastSeq('t')).toBe(1n);
  await before.stop();
  renameSync(file, `${file}.20261128-101112`);
  writeFileSync(file, linesOf(3, 4));
  appendFileSync(other.file, linesOf(5, 6));
  runSource(await fileSource(config, '/'), spool, dir, clock);
  await expect.poll(() => spool.lastSeq('t')).toBe(2n);
  const messages = async (): Promise<string[]> => (await messagesIn(spool)).map(({ message }) => message);
  expect(await messages()).toEqual(['[1]', '[5]']);
  await expect
    .poll(() => {
      pass(3_600_000);
      return spool.lastSeq('t');
    })
    .toBe(6n);
  const ofWeb = (await messages()).filter((message) => !['[5]', '[6]'].includes(message));
  expect(ofWeb).toEqual(['[1]', '[2]', '[3]', '[4]']);
});

test('files that are excluded are left alone, also those that were followed before', async () => {
  const dir = tempDir();
  const kept = podLog(dir, 'web');
  const other = podLog(dir, 'agent');
  for (const { file } of [kept, other]) appendFileSync(file, `${timeAt(1)} stdout F 1\n`);
  const runs = [{ end: 2n }, { exclude: ['containers/*_plant_agent-*'], end: 3n }, { end: 6n }];
  for (const { end, ...exclude } of runs) {
    const spool = await spoolIn(join(dir, 'spool'));
    const config = fileConfig(kept.glob, { format: 'cri', ...exclude });
    const running = runSource(await fileSource(config, dir), spool, dir);
    await expect.poll(() => spool.lastSeq('t')).toBe(end);
    await running.stop();
    await spool.close();
    for (const { file } of [kept, other]) if (end < 6n) appendFileSync(file, `${timeAt(2)} stdout F 2\n`);
  }
  const spool = await spoolIn(join(dir, 'spool'));
  expect((await messagesIn(spool)).map(({ message }) => message)).toEqual(['1', '1', '2', '2', '2', '2']);
});
