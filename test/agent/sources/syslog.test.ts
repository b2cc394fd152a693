import { execFile } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { expect, onTestFinished, test, vi } from 'vitest';
import { SyslogFramer, type Framed } from '../../../agent/sources/syslog/framing.ts';
import { parseSyslog } from '../../../agent/sources/syslog/message.ts';
import { syslogSource } from '../../../agent/sources/syslog/syslog-source.ts';
import type { Spool } from '../../../agent/spool/spool.ts';
import { makeCertificates } from '../../support/certificates.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, spoolIn } from '../spool/support.ts';
import { quarantinedIn, runSource, sourceConfig, type RunningSource } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';
import { freePorts } from '../../support/ports.ts';

const WAIT = { timeout: HANG_MS, interval: 20 };
const ARRIVAL_MS = new Date(2026, 0, 2, 12, 0, 0).getTime();
const parse = (text: string | Buffer): unknown => parseSyslog(Buffer.from(text), '10.0.0.9', ARRIVAL_MS);
const local = (...parts: [number, number, number, number, number, number]): string => new Date(...parts).toISOString();

test('messages of RFC 5424', () => {
  // The examples of section 6.5.
  expect(
    parse(
      "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \uFEFF'su root' failed for lonvick on /dev/pts/8",
    ),
  ).toEqual({
    ts: '2003-10-11T22:14:15.003Z',
    facility: 4,
    severity: 2,
    hostname: 'mymachine.example.com',
    app: 'su',
    msgId: 'ID47',
    message: "'su root' failed for lonvick on /dev/pts/8",
  });
  const structured =
    '[exampleSDID@32473 iut="3" eventSource="App\\"li\\]ca\\\\tion"][examplePriority@32473 class="high"]';
  expect(parse(`<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - ${structured}`)).toEqual({
    ts: '2003-08-24T05:14:15.000003-07:00',
    facility: 20,
    severity: 5,
    hostname: '192.0.2.1',
    app: 'myproc',
    procId: '8710',
    structured: {
      'exampleSDID@32473': { iut: '3', eventSource: 'App"li]ca\\tion' },
      'examplePriority@32473': { class: 'high' },
    },
    message: '',
  });
  expect(parse('<0>1 - - - - - - a\nb ü\n')).toEqual({
    facility: 0,
    severity: 0,
    hostname: '10.0.0.9',
    message: 'a\nb ü',
  });
  for (const [text, reason] of [
    ['<34>1 2003-10-11T22:14:15.003Z host su -', 'no header of RFC 5424'],
    ['<34>1 2003-10-11 host su - - - x', 'no header of RFC 5424'],
    ['<34>1 2003-13-11T22:14:15Z host su - - - x', "'2003-13-11T22:14:15Z' is no time"],
    ['<34>1 - h a p m [id x="1" y', 'structured data'],
    ['<34>1 - h a p m [id x="1"]message', 'structured data'],
  ]) {
    expect(parse(text ?? '')).toEqual({ reason: expect.stringContaining(reason ?? '') as string });
  }
});

test('the hour that a clock shows twice, and the turn of a year: the time that is near the arrival', async () => {
  // The zone is that of a process.
  const module = new URL('../../../agent/sources/syslog/message.ts', import.meta.url).href;
  const program = `
    import { parseSyslog } from '${module}';
    const ts = (text, arrival) => parseSyslog(Buffer.from('<13>' + text + ' h app: m'), 's', Date.parse(arrival)).ts;
    console.log(JSON.stringify([
      ts('Oct 25 02:30:00', '2026-10-25T00:30:01Z'),
      ts('Oct 25 02:30:00', '2026-10-25T01:30:01Z'),
      ts('Oct 25 03:30:00', '2026-10-25T02:30:01Z'),
      ts('Dec 31 23:59:59', '2026-12-31T23:00:02Z'),
      ts('Jan  1 00:00:01', '2026-12-31T22:59:58Z'),
      ts('Feb 29 12:00:00', '2028-02-29T11:00:01Z'),
    ]));`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    env: { ...process.env, TZ: 'Europe/Berlin' },
    timeout: HANG_MS,
  });
  expect(JSON.parse(stdout)).toEqual([
    '2026-10-25T00:30:00.000Z',
    '2026-10-25T01:30:00.000Z',
    '2026-10-25T02:30:00.000Z',
    '2026-12-31T22:59:59.000Z',
    '2026-12-31T23:00:01.000Z',
    '2028-02-29T11:00:00.000Z',
  ]);
});

test('messages of RFC 3164, and what devices make of it', () => {
  expect(parse("<34>Oct 11 22:14:15 mymachine su[42]: 'su root' failed")).toEqual({
    ts: local(2025, 9, 11, 22, 14, 15),
    facility: 4,
    severity: 2,
    hostname: 'mymachine',
    app: 'su',
    procId: '42',
    message: "'su root' failed",
  });
  // Around the turn of the year, and with a clock that is ahead.
  expect(parse('<13>Dec 31 23:59:59 h x: y')).toMatchObject({ ts: local(2025, 11, 31, 23, 59, 59) });
  expect(parse('<13>Jan  3 01:00:00 h x: y')).toMatchObject({ ts: local(2026, 0, 3, 1, 0, 0), app: 'x', message: 'y' });
  expect(parse('<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!')).toMatchObject({
    hostname: '10.0.0.99',
    message: 'Use the BFG!',
  });
  expect(parse('<13>Foo 45 99:00:00 h x: y')).toEqual({
    facility: 1,
    severity: 5,
    hostname: '10.0.0.9',
    message: 'Foo 45 99:00:00 h x: y',
  });
  expect(parse('<191>only text')).toEqual({ facility: 23, severity: 7, hostname: '10.0.0.9', message: 'only text' });
  for (const bad of ['no priority', '<192>x', '<034>x', '<>x', '<1', '']) {
    expect(parse(bad)).toEqual({ reason: expect.stringContaining('does not begin with a priority') as string });
  }
  expect(parse(Buffer.from([0x3c, 0x31, 0x3e, 0xff]))).toEqual({ reason: 'the message is not UTF-8' });
});

test('any text is parsed or refused in time that grows with its length', () => {
  fc.assert(
    fc.property(
      fc.string({ maxLength: 200 }),
      fc.constantFrom('<1>', '<1>1 - - - - - ', '<1>1 - a b c d [x y="', ''),
      (text, head) => {
        expect(parse(head + text)).toHaveProperty(
          head === '' && !text.startsWith('<') ? 'reason' : (Object.keys(parse(head + text) as object)[0] ?? ''),
        );
      },
    ),
  );
  expect(parse(`<1>1 - a b c d [x ${'y="\\"'.repeat(10_000)}`)).toHaveProperty('reason');
});

test('a run of NULs, and messages within a false length, do not stall the agent: time grows with their length', async () => {
  const module = (name: string): string => new URL(`../../../agent/sources/syslog/${name}.ts`, import.meta.url).href;
  // In a process of its own, which can be ended: by the square of the length these take hours.
  const program = `
    import { parseSyslog } from '${module('message')}';
    import { SyslogFramer } from '${module('framing')}';
    const { message } = parseSyslog(Buffer.from('<13>' + '\\0'.repeat(1_000_000) + 'x\\r\\n\\0'), 's', 0);
    const within = '<1>' + '4 <1>a'.repeat(9000) + 'no message';
    const stream = Buffer.from(within.length + ' ' + within + 'nor here');
    let framed = 0;
    for (let connection = 0; connection < 20; connection += 1) {
      for (const { bytes } of new SyslogFramer(65_535).push(stream)) framed += bytes.length;
    }
    console.log(message.length, framed);`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    timeout: HANG_MS,
  });
  // Whether the length is false shows only by what comes behind: nothing is given out yet.
  expect(stdout).toBe('1000001 0\n');
});

test('messages come out of a connection whole, counted or by lines, however the bytes are cut', () => {
  const message = fc.record({
    text: fc.string({ unit: fc.constantFrom('a', '1', ' ', 'ü'), maxLength: 30 }),
    isCounted: fc.boolean(),
    isLong: fc.boolean(),
  });
  fc.assert(
    fc.property(
      fc.array(message, { minLength: 1, maxLength: 10 }),
      fc.integer({ min: 1, max: 50 }),
      (messages, portion) => {
        const texts = messages.map(({ text, isLong }) => `<1>${text}${isLong ? 'x'.repeat(200) : ''}`);
        const bytes = Buffer.concat(
          texts.map((text, index) =>
            Buffer.from(messages[index]?.isCounted === true ? `${Buffer.byteLength(text)} ${text}` : `${text}\n`),
          ),
        );
        const framer = new SyslogFramer(120);
        const got: (string | null)[] = [];
        for (let at = 0; at < bytes.length; at += portion) {
          for (const framed of framer.push(bytes.subarray(at, at + portion)))
            got.push(framed.fault === null ? framed.bytes.toString() : null);
        }
        expect(framer.finish()).toEqual([]);
        expect(got).toEqual(texts.map((text) => (Buffer.byteLength(text) > 120 ? null : text)));
      },
    ),
    { numRuns: 300 },
  );
});

async function receive(
  more: Record<string, unknown>,
  maxBytes = 1e9,
): Promise<RunningSource & { port: number; spool: Spool; dir: string }> {
  const dir = tempDir();
  const spool = await spoolIn(join(dir, 'spool'), { maxBytes });
  const [port = 0] = await freePorts(1);
  const config = sourceConfig({ type: 'syslog', listen: `127.0.0.1:${port}`, to: 't', ...more });
  const running = runSource(syslogSource(config, dir), spool, dir);
  return { ...running, port, spool, dir };
}

async function open(port: number): Promise<Socket> {
  const socket = await vi.waitFor(
    () =>
      new Promise<Socket>((resolve, reject) => {
        const made = connect(port, '127.0.0.1', () => resolve(made));
        made.once('error', reject);
      }),
    WAIT,
  );
  socket.on('error', () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

async function messages(spool: Spool, count: number): Promise<{ key: string | undefined; message: string }[]> {
  await vi.waitFor(() => expect(spool.lastSeq('t')).toBe(BigInt(count)), WAIT);
  return (await readAll(spool)).map((entry) => {
    if (entry.kind !== 'reading') throw new Error('no reading');
    const { message } = JSON.parse(entry.value.toString()) as { message: string };
    return { key: entry.key?.toString(), message };
  });
}

test('over UDP: a datagram is a message', async () => {
  const { port, spool, dir } = await receive({});
  const socket = createSocket('udp4');
  onTestFinished(() => void socket.close());
  const send = (text: string | Buffer): Promise<void> =>
    new Promise((resolve, reject) =>
      socket.send(text, port, '127.0.0.1', (error) => (error === null ? resolve() : reject(error))),
    );
  // Until the source listens.
  await vi.waitFor(async () => {
    await send('<13>Jan  2 10:00:00 plc-1 boot: up\n');
    expect(spool.lastSeq('t')).toBeGreaterThan(0n);
  }, WAIT);
  for (let n = 0; n < 50; n += 1) await send(`<13>1 - plc-2 app - - - ${n}`);
  await send('no syslog');
  await vi.waitFor(async () => {
    const all = await messages(spool, Number(spool.lastSeq('t')));
    const numbered = all.filter(({ key }) => key === 'plc-2').map(({ message }) => message);
    expect(numbered).toEqual(Array.from({ length: 50 }, (_, n) => String(n)));
  }, WAIT);
  await vi.waitFor(
    () => expect(quarantinedIn(dir)).toMatchObject([{ position: '127.0.0.1', text: 'no syslog' }]),
    WAIT,
  );
});

test('over TCP: both framings on one connection, a broken one is closed, and what was received at the end is stored', async () => {
  const running = await receive({ transport: 'tcp', maxMessageBytes: 500, sensor: 'app' });
  const { port, spool, dir, output } = running;
  const socket = await open(port);
  socket.write(
    `<13>1 - h a - - - one\n22 <13>1 - h a - - - t\nwo\n<13>${'x'.repeat(600)}\n<13>1 - h a - - - three\n<13>1 - h a - - - four`,
  );
  expect((await messages(spool, 3)).map(({ message }) => message)).toEqual(['one', 't\nwo', 'three']);
  socket.end();
  expect((await messages(spool, 4)).at(-1)).toEqual({ key: 'a', message: 'four' });
  const broken = await open(port);
  broken.write('12x');
  await new Promise((resolve) => broken.once('close', resolve));
  await vi.waitFor(
    () =>
      expect(quarantinedIn(dir).map(({ reason }) => reason)).toEqual([
        'the message is longer than maxMessageBytes (500)',
        expect.stringContaining('the connection is closed'),
      ]),
    WAIT,
  );
  expect(output.counters.events).toEqual({ connection: 2, framing_broken: 1 });
  const last = await open(port);
  await new Promise((resolve) => last.write('<13>1 - h a - - - five\n', resolve));
  await vi.waitFor(() => expect(output.counters.events['connection']).toBe(3), WAIT);
  await vi.waitFor(() => expect(spool.lastSeq('t')).toBe(5n), WAIT);
  await running.stop();
});

test('a full spool stops the reading of connections, loses datagrams and says so', async () => {
  const tcp = await receive({ transport: 'tcp' }, 1_048_576);
  const socket = await open(tcp.port);
  const text = 'y'.repeat(1000);
  const count = 20_000;
  for (let n = 0; n < count; n += 1) socket.write(`<13>1 - h a - - - ${n} ${text}\n`);
  await vi.waitFor(() => expect(tcp.output.counters.isHeldUp).toBe(true), WAIT);
  expect(socket.writableLength).toBeGreaterThan(1_000_000);
  const numbers: number[] = [];
  for (let after = 0n; numbers.length < count;) {
    await vi.waitFor(() => expect(tcp.spool.lastSeq('t')).toBeGreaterThan(after), WAIT);
    for (const entry of await tcp.spool.read('t', after, 1e7)) {
      if (entry.kind !== 'reading') throw new Error('no reading');
      numbers.push(Number((JSON.parse(entry.value.toString()) as { message: string }).message.split(' ')[0]));
      after = entry.seq;
    }
    tcp.spool.acknowledge('t', after);
  }
  expect(numbers).toEqual(Array.from({ length: count }, (_, n) => n));

  const udp = await receive({}, 1_048_576);
  const sender = createSocket('udp4');
  onTestFinished(() => void sender.close());
  await vi.waitFor(async () => {
    for (let n = 0; n < 200; n += 1) sender.send(`<13>1 - h a - - - ${'z'.repeat(50_000)}`, udp.port, '127.0.0.1');
    await new Promise((resolve) => setImmediate(resolve));
    expect(udp.output.counters.events['datagram_lost']).toBeGreaterThan(0);
  }, WAIT);
  expect(udp.output.counters.problem).toContain('datagrams are lost');
});

test('over TLS', async () => {
  const certificates = tempDir();
  const { ca, server, client } = makeCertificates(certificates);
  const { port, spool, output } = await receive({ transport: 'tcp', tls: { ...server, clientCa: ca } });
  await open(port).then((socket) => socket.destroy());
  const trusted = connectTls({
    port,
    host: '127.0.0.1',
    ca: readFileSync(ca),
    cert: readFileSync(client.cert),
    key: readFileSync(client.key),
  });
  onTestFinished(() => void trusted.destroy());
  trusted.write('24 <13>1 - h a - - - secret');
  expect(await messages(spool, 1)).toEqual([{ key: 'h', message: 'secret' }]);
  const stranger = connectTls({ port, host: '127.0.0.1', ca: readFileSync(ca) });
  stranger.on('error', () => undefined);
  stranger.write('22 <13>1 - h a - - - nope');
  await new Promise((resolve) => stranger.once('close', resolve));
  await vi.waitFor(() => expect(output.counters.events['tls_refused']).toBeGreaterThan(0), WAIT);
  expect(spool.lastSeq('t')).toBe(1n);
});

test('over TLS: who connects and never shakes hands does not hold up the end of the source', async () => {
  const { server } = makeCertificates(tempDir());
  const running = await receive({ transport: 'tcp', tls: server });
  const silent = await open(running.port);
  const closed = once(silent, 'close');
  // Node ends a handshake after two minutes.
  expect(await Promise.race([running.stop(), delay(HANG_MS / 2, 'hangs', { ref: false })])).toBeUndefined();
  await closed;
});

test('over TCP: a message whose sender says that it is longer than what comes is not dropped without a word', async () => {
  const { port, spool, dir } = await receive({ transport: 'tcp' });
  const socket = await open(port);
  socket.end('22 <13>1 - h a - - - one 99 <13>1 - h a - - - two');
  await vi.waitFor(
    () =>
      expect(quarantinedIn(dir)).toMatchObject([
        { reason: 'the connection ended within the message', text: '99 <13>1 - h a - - - two' },
      ]),
    WAIT,
  );
  expect((await messages(spool, 1)).map(({ message }) => message)).toEqual(['one ']);
});

test('over TCP: a false length swallows nothing: the connection is closed by name, and what came behind it is quarantined', async () => {
  const { port, spool, dir, output } = await receive({ transport: 'tcp' });
  const socket = await open(port);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('21 <13>1 - h a - - - one999999999 <13>1 - h a - - - two\n');
  // Before the fault was mended, everything up to the announced length went nowhere, and the connection stood.
  await vi.waitFor(() => expect(quarantinedIn(dir)).toHaveLength(1), WAIT);
  await closed;
  expect(quarantinedIn(dir)).toMatchObject([
    {
      reason: 'a message announces 999999999 bytes, more than 1048576: the connection is closed',
      text: '999999999 <13>1 - h a - - - two\n',
    },
  ]);
  expect(output.counters.events).toEqual({ connection: 1, framing_broken: 1 });
  const again = await open(port);
  again.write('21 <13>1 - h a - - - tri');
  expect((await messages(spool, 2)).map(({ message }) => message)).toEqual(['one', 'tri']);
});

test('over TCP: a message that is too long and honest is skipped, and those behind it are read', async () => {
  const { port, spool, dir } = await receive({ transport: 'tcp', maxMessageBytes: 500 });
  const socket = await open(port);
  socket.write(`100000 <13>1 - h a - - - ${'x'.repeat(99_982)}21 <13>1 - h a - - - one`);
  expect((await messages(spool, 1)).map(({ message }) => message)).toEqual(['one']);
  await vi.waitFor(
    () =>
      expect(quarantinedIn(dir)).toMatchObject([
        { reason: 'the message is longer than maxMessageBytes (500): its sender announced 100000 bytes' },
      ]),
    WAIT,
  );
});

/** What comes out of a connection whose bytes come in portions. */
function framedOf(text: string, portion = text.length, maxBytes = 480): { messages: string[]; faults: string[] } {
  const bytes = Buffer.from(text);
  const framer = new SyslogFramer(maxBytes);
  const all: Framed[] = [];
  for (let at = 0; at < bytes.length; at += portion) all.push(...framer.push(bytes.subarray(at, at + portion)));
  all.push(...framer.finish());
  return {
    messages: all.filter(({ fault }) => fault === null).map(({ bytes: message }) => message.toString()),
    faults: all.flatMap(({ bytes: message, fault }) => (fault === null ? [] : [`${fault}: ${message.toString()}`])),
  };
}

const counted = (text: string, length = Buffer.byteLength(text)): string => `${length} ${text}`;

test.each([1, 7, 1000])('a false length swallows no message behind it, in portions of %i bytes', (portion) => {
  const others = [1, 2, 3, 4].map((n) => `<13>1 - h a - - - number ${n}`);
  const behind = others.map((text) => counted(text)).join('');
  const first = '<13>1 - h a - - - first';
  expect(framedOf(`${counted('<13>before')}${counted(first, 60)}${behind}`, portion)).toEqual({
    messages: ['<13>before', ...others],
    faults: [
      `its sender announced 60 bytes, which is false: others begin within them, and none behind them: 60 ${first}`,
    ],
  });
  // A sender that counts characters: its first bytes are a message, as far as its length goes.
  expect(framedOf(`${counted('<13>zwölf', 9)}${behind}`, portion)).toEqual({
    messages: ['<13>zwöl', ...others],
    faults: ['no message begins here: the length of the one before this is false: f'],
  });
  // What is left of it may be a digit.
  const many = Array.from({ length: 40 }, (_, n) => `<13>1 - h a - - - numbered ${n}.`);
  const behindDigit = many.map((text) => counted(text)).join('');
  expect(framedOf(`${counted('<13>zwölf 7', 11)}${behindDigit}`, portion).messages).toEqual(['<13>zwölf ', ...many]);
  expect(framedOf(`${counted('<13>zwölf', 9)}\n${behind}`, portion).messages).toEqual(['<13>zwöl', ...others]);
});

test.each([1, 7, 1000])('text in a message that looks like messages stays text, in portions of %i bytes', (portion) => {
  const inner = [1, 2, 3].map((n) => counted(`<0>1 - admin su - - - forged ${n}`)).join('');
  const outer = `<13>1 - h a - - - login of ${inner}`;
  for (const text of [outer, `${outer} failed`]) {
    const next = '<13>1 - h a - - - next';
    expect(framedOf(`${counted(text)}${counted(next)}`, portion)).toEqual({ messages: [text, next], faults: [] });
    expect(framedOf(`${counted(text)}\n${next}\n`, portion)).toEqual({ messages: [text, next], faults: [] });
    // The last one, too.
    expect(framedOf(counted(text), portion)).toEqual({ messages: [text], faults: [] });
  }
});

test('whatever a length says, the messages behind it come, each once', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 3000 }),
      fc.array(fc.string({ unit: fc.constantFrom('a', '1', ' ', '<', '>', 'ü'), maxLength: 60 }), {
        minLength: 1,
        maxLength: 9,
      }),
      fc.integer({ min: 1, max: 300 }),
      (length, texts, portion) => {
        const others = [...texts, ...Array.from({ length: 300 }, (_, n) => `number ${n}`)].map(
          (text) => `<13>${text}.`,
        );
        const { messages } = framedOf(
          `${counted('<13>first', length)}${others.map((text) => counted(text)).join('')}`,
          portion,
          4000,
        );
        const whole = messages.filter((text) => others.includes(text));
        expect(whole.slice(-100)).toEqual(others.slice(-100));
      },
    ),
    { numRuns: 200 },
  );
});

test('over TCP: of a length above what is kept whole, with messages within, nothing is skipped unseen', async () => {
  const { port, dir, output } = await receive({ transport: 'tcp' });
  const socket = await open(port);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  const texts = Array.from({ length: 3000 }, (_, n) => counted(`<13>1 - h a - - - number ${n}`));
  socket.write(`${counted('<13>1 - h a - - - first', 900_000)}${texts.join('')}`);
  await closed;
  await vi.waitFor(() => expect(quarantinedIn(dir).length).toBeGreaterThan(0), WAIT);
  const [{ reason, text } = { reason: '', text: '' }] = quarantinedIn(dir);
  expect(reason).toBe('a message announces 900000 bytes, and others begin within them: the connection is closed');
  expect(text).toMatch(/^900000 <13>1 - h a - - - first26 <13>/);
  expect(output.counters.events).toEqual({ connection: 1, framing_broken: 1 });
});

test('over TCP: a message with others in its text is not held back for what follows it', async () => {
  const { port, spool } = await receive({ transport: 'tcp' });
  const socket = await open(port);
  const text = `nested ${counted('<0>1 - admin su - - - forged')}`;
  socket.write(counted(`<13>1 - h a - - - ${text}`));
  expect((await messages(spool, 1)).map(({ message }) => message)).toEqual([text]);
});

test('over TLS: a message that is held back for what follows it is stored when the source stops', async () => {
  const certificates = tempDir();
  const { ca, server } = makeCertificates(certificates);
  const running = await receive({ transport: 'tcp', tls: server });
  const { port, spool } = running;
  await open(port).then((socket) => socket.destroy());
  const socket = connectTls({ port, host: '127.0.0.1', ca: readFileSync(ca) });
  socket.on('error', () => undefined);
  onTestFinished(() => void socket.destroy());
  const text = `nested ${counted('<0>1 - admin su - - - forged')}`;
  // One record of TLS: when the first is stored, the second is there.
  socket.write(`${counted('<13>1 - h a - - - first')}${counted(`<13>1 - h a - - - ${text}`)}`);
  await messages(spool, 1);
  await running.stop();
  expect((await messages(spool, 2)).map(({ message }) => message)).toEqual(['first', text]);
});

test('over TCP: senders that hold all connections are a problem of the source, until one has gone', async () => {
  const { port, output } = await receive({ transport: 'tcp', maxConnections: 1 });
  const holder = await open(port);
  await vi.waitFor(() => expect(output.counters.events['connection']).toBe(1), WAIT);
  const other = await open(port);
  await vi.waitFor(
    () => expect(output.counters.problem).toContain('all 1 connections (maxConnections) are taken'),
    WAIT,
  );
  other.destroy();
  expect(output.counters.events).toEqual({ connection: 1, connection_dropped: 1 });
  holder.destroy();
  await vi.waitFor(() => expect(output.counters.problem).toBeNull(), WAIT);
});
