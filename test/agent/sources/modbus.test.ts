import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { modbusSource } from '../../../agent/sources/modbus/modbus-source.ts';
import type { Spool } from '../../../agent/spool/spool.ts';
import { AgentProcess, flawsOf, numberedIn } from '../../support/agent-process.ts';
import {
  addresses,
  exception,
  frame,
  goodDevice,
  scriptedDevice,
  type Asked,
  type ScriptedDevice,
} from '../../support/modbus-device.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, spoolIn } from '../spool/support.ts';
import { quarantinedIn, runSource, sourceConfig, type RunningSource } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';

const WAIT = { timeout: HANG_MS, interval: 10 };

interface Following extends RunningSource {
  readonly spool: Spool;
  readonly dir: string;
  /** Values of the readings, when there are so many. */
  values(count: number): Promise<Record<string, unknown>[]>;
}

async function follow(url: string, more: Record<string, unknown>): Promise<Following> {
  const dir = tempDir();
  const spool = await spoolIn(join(dir, 'spool'));
  const config = sourceConfig({ type: 'modbus', url, to: 't', interval: '20ms', timeout: '2s', ...more });
  const running = runSource(modbusSource(config), spool, dir);
  return {
    ...running,
    spool,
    dir,
    async values(count) {
      await vi.waitFor(() => expect(spool.lastSeq('t')).toBeGreaterThanOrEqual(BigInt(count)), WAIT);
      return (await readAll(spool)).map((entry) => {
        if (entry.kind !== 'reading') throw new Error('a gap');
        const value = JSON.parse(entry.value.toString()) as Record<string, unknown>;
        expect(entry.key?.toString()).toBe(value['sensor']);
        expect(entry.eventUs).toBe(Number(value['ts']) * 1000);
        return value;
      });
    },
  };
}

const holding = (...list: number[]): object[] => list.map((address) => ({ name: `r${address}`, address }));
const events = ({ output }: RunningSource): Record<string, number> => output.counters.events;

test('every table and type, in every order of bytes and words, from a server that others wrote', async () => {
  const device = await goodDevice();
  const { coils, discrete, input, holding: words } = device;
  coils.writeUInt8(0b0000_0100, 1);
  discrete.writeUInt8(0b0000_0001, 0);
  input.writeInt16BE(-12_345, 2 * 7);
  words.writeUInt16BE(0xfffe, 0);
  words.writeInt32BE(-70_000, 2);
  words.writeBigUInt64BE(18_446_744_073_709_551_615n, 6);
  words.writeBigInt64BE(-9_007_199_254_740_993n, 14);
  words.writeDoubleBE(-2.5e-300, 22);
  words.write('pump 7\0garbage', 30, 'latin1');
  words.writeUInt16BE(0b1000_0000_0000_0000, 44);
  words.writeInt16BE(217, 46);
  // 21.5 as a float in each of the four orders that vendors have.
  for (const [index, order] of [
    [0, 1, 2, 3],
    [2, 3, 0, 1],
    [1, 0, 3, 2],
    [3, 2, 1, 0],
  ].entries()) {
    const abcd = Buffer.alloc(4);
    abcd.writeFloatBE(21.5);
    order.forEach((from, place) => (words[100 + 4 * index + place] = abcd[from] ?? 0));
  }
  words.writeFloatBE(Number.NaN, 120);
  const running = await follow(device.url, {
    groups: [
      {
        sensor: 'boiler',
        registers: [
          { name: 'coil', table: 'coil', address: 10 },
          { name: 'off', table: 'coil', address: 11 },
          { name: 'door', table: 'discrete', address: 0 },
          { name: 'level', table: 'input', address: 7, type: 'int16' },
          { name: 'u16', address: 0 },
          { name: 'i32', address: 1, type: 'int32' },
          { name: 'u64', address: 3, type: 'uint64' },
          { name: 'i64', address: 7, type: 'int64' },
          { name: 'f64', address: 11, type: 'float64' },
          { name: 'model', address: 15, type: 'string', length: 13 },
          { name: 'alarm', address: 22, type: 'bool', bit: 15 },
          { name: 'scaled', address: 23, type: 'int16', scale: 0.1, offset: -1 },
          { name: 'abcd', address: 50, type: 'float32' },
          { name: 'cdab', address: 52, type: 'float32', wordOrder: 'little' },
          { name: 'badc', address: 54, type: 'float32', byteOrder: 'little' },
          { name: 'dcba', address: 56, type: 'float32', wordOrder: 'little', byteOrder: 'little' },
          { name: 'broken', address: 60, type: 'float32' },
        ],
      },
    ],
  });
  const [first] = await running.values(1);
  expect(first).toEqual({
    ...{ sensor: 'boiler', ts: expect.any(Number) as unknown },
    ...{ quality: 'partial', problem: 'broken: NaN is no measurement', broken: null },
    ...{ coil: true, off: false, door: true, level: -12_345, u16: 65_534, i32: -70_000, f64: -2.5e-300 },
    ...{ u64: Number(18_446_744_073_709_551_615n), i64: Number(-9_007_199_254_740_993n) },
    ...{ model: 'pump 7', alarm: true, scaled: 20.7, abcd: 21.5, cdab: 21.5, badc: 21.5, dcba: 21.5 },
  });
  const text = (await readAll(running.spool)).map((entry) => (entry.kind === 'reading' ? entry.value.toString() : ''));
  // All digits, which JSON.parse above could not keep.
  expect(text[0]).toContain('"u64":18446744073709551615,"i64":-9007199254740993');
  expect(running.output.counters.problem).toBe('boiler: broken: NaN is no measurement');
});

test('neighbours are read together across small gaps, and no request is wider than the protocol and the device take', async () => {
  const device = await scriptedDevice((asked) => addresses(asked));
  const running = await follow(device.url, {
    unit: 9,
    maxRegisters: 50,
    groups: [
      {
        sensor: 's',
        registers: [...holding(60, 0, 16, 34, 49, 84, 70, 83), { name: 'x', table: 'input', address: 1 }],
      },
    ],
  });
  const [first] = await running.values(1);
  expect(first).toMatchObject({ quality: 'good', r0: 0, r16: 16, r34: 34, r60: 60, r70: 70, r83: 83, r84: 84, x: 1 });
  const asked = device.asked.slice(0, 4).map(({ unit, function: fn, address, count }) => [unit, fn, address, count]);
  expect(asked).toEqual([
    [9, 3, 0, 17],
    [9, 3, 34, 50],
    [9, 3, 84, 1],
    [9, 4, 1, 1],
  ]);
});

test('groups have intervals and units of their own, and missed polls are counted, not made up for', async () => {
  let isSlow = false;
  const device = await scriptedDevice((asked) => {
    if (!isSlow) return addresses(asked);
    isSlow = false;
    setTimeout(() => asked.socket.write(addresses(asked)), 300);
    return null;
  });
  const running = await follow(device.url, {
    groups: [
      { sensor: 'fast', interval: '20ms', unit: 3, registers: holding(1) },
      { sensor: 'slow', interval: '10m', unit: 4, registers: holding(2) },
    ],
  });
  await running.values(10);
  isSlow = true;
  await vi.waitFor(() => expect(events(running)['poll_missed']).toBeGreaterThanOrEqual(5), WAIT);
  const values = await running.values(20);
  expect(values.filter(({ sensor }) => sensor === 'slow')).toHaveLength(1);
  expect(new Set(device.asked.map(({ unit }) => unit))).toEqual(new Set([3, 4]));
  expect(events(running)['connection']).toBe(1);
});

test('a register that the device does not have is null with the reason, and its neighbours are read without it', async () => {
  const device = await scriptedDevice((asked) => {
    const reaches = asked.address <= 5 && asked.address + asked.count > 5;
    return reaches ? exception(asked, 2) : addresses(asked);
  });
  const running = await follow(device.url, { groups: [{ sensor: 's', registers: holding(1, 2, 3, 4, 5, 6, 7, 8) }] });
  const values = await running.values(5);
  for (const value of values) {
    expect(value).toMatchObject({ quality: 'partial', problem: 'r5: illegal data address (exception 2)' });
    expect(value).toMatchObject({ r1: 1, r2: 2, r3: 3, r4: 4, r5: null, r6: 6, r7: 7, r8: 8 });
  }
  // Halved three times, and remembered: 1-4, 5, 6, 7-8 from then on.
  const wide = device.asked.filter(({ address, count }) => address <= 5 && address + count > 5 && count > 1);
  expect(wide.map(({ address, count }) => [address, count])).toEqual([[1, 8], [5, 4], [5, 2]]); // prettier-ignore
  expect(running.output.counters.problem).toBe('s: r5: illegal data address (exception 2)');
});

test('units that are silent, or whose answers are refused, do not keep the others behind a gateway from being asked', async () => {
  // Three that are silent end a connection, as one answer does that is none.
  const device = await scriptedDevice((asked) =>
    asked.unit <= 3 ? null : asked.unit === 4 ? frame(asked, [0x2b, 0]) : addresses(asked),
  );
  const running = await follow(device.url, {
    timeout: '200ms',
    groups: [1, 2, 3, 4, 5].map((unit) => ({ sensor: `unit-${unit}`, unit, registers: holding(unit) })),
  });
  for (const value of await running.values(5)) {
    expect(value).toMatchObject({ sensor: 'unit-5', quality: 'good', r5: 5 });
  }
});

test('a device that failed for a while is asked for its registers together again, and not for each of them while it fails', async () => {
  const device = await scriptedDevice((asked, index) => (index < 8 ? exception(asked, 4) : addresses(asked)));
  const running = await follow(device.url, { groups: [{ sensor: 's', registers: holding(1, 2, 3, 4) }] });
  const values = await running.values(4);
  for (const value of values.slice(0, 2)) expect(value).toMatchObject({ quality: 'bad', r1: null, r4: null });
  for (const value of values.slice(2)) expect(value).toMatchObject({ quality: 'good', r1: 1, r4: 4 });
  // All, its halves and each register: width was not the reason. In the next poll all of them once, and so on from there.
  expect(device.asked.slice(0, 10).map(({ count }) => count)).toEqual([4, 2, 1, 1, 2, 1, 1, 4, 4, 4]);
});

test('a timeout while a span that is too wide is taken apart is no refusal of its registers', async () => {
  const device = await scriptedDevice((asked, index) =>
    asked.count > 4 ? exception(asked, 2) : index === 1 ? null : addresses(asked),
  );
  const registers = holding(1, 2, 3, 4, 5, 6, 7, 8);
  const running = await follow(device.url, { timeout: '500ms', groups: [{ sensor: 's', registers }] });
  const [first] = await running.values(1);
  expect(first).toMatchObject({ quality: 'good', r1: 1, r4: 4, r5: 5, r8: 8 });
  // All, and its first half in vain; the next poll takes it apart again.
  expect(device.asked.slice(0, 5).map(({ count }) => count)).toEqual([8, 4, 8, 4, 4]);
});

test('a busy device gives a reading of bad quality, and the problem is over when it answers again', async () => {
  const device = await scriptedDevice((asked, index) => (index < 3 ? exception(asked, 6) : addresses(asked)));
  const running = await follow(device.url, { groups: [{ sensor: 's', registers: holding(1, 2) }] });
  const values = await running.values(5);
  const problem = 'r1: device busy (exception 6); r2: device busy (exception 6)';
  expect(values[0]).toMatchObject({ quality: 'bad', problem, r1: null, r2: null });
  expect(values[4]).toMatchObject({ quality: 'good', r1: 1, r2: 2 });
  expect(values[4]).not.toHaveProperty('problem');
  expect(running.output.counters.problem).toBeNull();
  expect(events(running)).toMatchObject({ exception: 3, connection: 1 });
});

test.each<[what: string, (asked: Asked) => Buffer, reason: string]>([
  [
    'another transaction',
    (asked) => addresses({ ...asked, transaction: asked.transaction + 7 }),
    'the device answers for another: transaction 8, asked was transaction 1',
  ],
  [
    'another unit',
    (asked) => addresses({ ...asked, unit: 17 }),
    'the device answers for another: unit 17, asked was unit 1',
  ],
  ['another function', (asked) => addresses({ ...asked, function: 4 }), 'it answers function 4, asked was 3'],
  ['fewer registers', (asked) => addresses({ ...asked, count: 1 }), 'it answers with 2 bytes of data, asked was for 4'],
  ['a byte count that lies', (asked) => frame(asked, [3, 4, 0, 1]), 'it answers with 2 bytes of data, asked was for 4'],
  ['an exception without a code', (asked) => frame(asked, [0x83]), 'it answers function 131, asked was 3'],
  ['another protocol', (asked) => frame(asked, [3, 4, 0, 1, 0, 2], { protocol: 1 }), 'speaks no Modbus on TCP'],
  ['a length without end', (asked) => frame(asked, [3, 4, 0, 1, 0, 2], { length: 60_000 }), 'speaks no Modbus on TCP'],
  ['HTTP', () => Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'), 'speaks no Modbus on TCP (485454502f312e3120'],
])(
  'an answer with %s is refused and kept as evidence, and the next connection goes on',
  async (_what, answer, reason) => {
    const device = await scriptedDevice((asked, index) => (index === 0 ? answer(asked) : addresses(asked)));
    const running = await follow(device.url, { groups: [{ sensor: 's', registers: holding(1, 2) }] });
    const values = await running.values(3);
    for (const value of values) expect(value).toMatchObject({ quality: 'good', r1: 1, r2: 2 });
    expect(events(running)).toMatchObject({ refused_answer: 1, connection: 2 });
    await running.stop();
    const [item, ...others] = quarantinedIn(running.dir);
    expect(others).toEqual([]);
    expect(item?.reason).toContain(reason);
    expect(item?.position).toBe('unit 1, holding 1, 2 asked');
  },
);

test('a unit that is silent is asked less often and its late answers are taken for nothing; the others go on', async () => {
  const late: (() => void)[] = [];
  const device = await scriptedDevice((asked) => {
    if (asked.unit === 1) {
      // A late answer comes just before the next one that counts, with other values.
      for (const send of late.splice(0)) send();
      return addresses(asked);
    }
    late.push(() => asked.socket.write(addresses({ ...asked, address: 1 })));
    return null;
  });
  // Far above what an answer takes: it is `alive` whose answers must not be late.
  const running = await follow(device.url, {
    timeout: '500ms',
    groups: [
      { sensor: 'alive', unit: 1, registers: holding(1) },
      { sensor: 'dead', unit: 2, registers: holding(8) },
    ],
  });
  await vi.waitFor(() => expect(events(running)['late_answer']).toBeGreaterThanOrEqual(3), WAIT);
  const values = await running.values(20);
  for (const value of values) expect(value).toMatchObject({ sensor: 'alive', quality: 'good', r1: 1 });
  expect(running.output.counters.problem).toBe('dead: no answer within 500 ms');
  expect(device.asked.filter(({ unit }) => unit === 2).length).toBeLessThan(values.length / 2);
  expect(events(running)).toMatchObject({ connection: 1 });
  expect(events(running)['refused_answer']).toBeUndefined();
});

test('a device that answered while this process stood still was not silent', async () => {
  let standstills = 3;
  const standStill = (): void => {
    if (standstills-- > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
  };
  const device = await scriptedDevice((asked) => {
    // When it is called, the kernel has the answer.
    asked.socket.write(addresses(asked), standStill);
    return null;
  });
  const running = await follow(device.url, { timeout: '200ms', groups: [{ sensor: 's', registers: holding(1) }] });
  for (const value of await running.values(5)) expect(value).toMatchObject({ quality: 'good', r1: 1 });
  expect(events(running)['late_answer']).toBeUndefined();
});

test('a device that goes away or falls silent is connected to again, with its problem shown', async () => {
  let isSilent = false;
  const device: ScriptedDevice = await scriptedDevice((asked) => (isSilent ? null : addresses(asked)));
  const running = await follow(device.url, { timeout: '500ms', groups: [{ sensor: 's', registers: holding(1) }] });
  await running.values(2);
  device.drop();
  await vi.waitFor(() => expect(events(running)['connection']).toBe(2), WAIT);
  await running.values(4);
  isSilent = true;
  await vi.waitFor(() => {
    expect(running.output.counters.problem).toMatch(/did not answer 3 times in a row, each within 500 ms/);
  }, WAIT);
  isSilent = false;
  const before = Number(running.spool.lastSeq('t'));
  await running.values(before + 2);
  expect(running.output.counters.problem).toBeNull();
});

test('while the spool is full nothing is polled, and the source ends in order', async () => {
  const device = await scriptedDevice((asked) => frame(asked, Buffer.from([3, 250, ...Buffer.alloc(250, 'A')])));
  const dir = tempDir();
  const spool = await spoolIn(join(dir, 'spool'), { maxBytes: 1 << 20 });
  // One request, and a reading of some 250 kB.
  const registers = Array.from({ length: 900 }, (_, n) => ({ name: `r${n}`, address: 0, type: 'string', length: 250 }));
  const config = sourceConfig({ type: 'modbus', url: device.url, to: 't', interval: '10ms', groups: [{ sensor: 's', registers }] }); // prettier-ignore
  const running = runSource(modbusSource(config), spool, dir);
  const missed = (): number => events(running)['poll_missed'] ?? 0;
  // Until the spool is full and twenty polls in a row were missed.
  for (let asked = -1; asked !== device.asked.length || !running.output.counters.isHeldUp;) {
    asked = device.asked.length;
    const before = missed();
    await vi.waitFor(() => expect(missed()).toBeGreaterThan(before + 20), WAIT);
  }
  await running.stop();
  expect(events(running)).toMatchObject({ connection: 1 });
});

test('an agent that polls is killed and started again: nothing stands in the log twice, and each reading is in order', async () => {
  let n = 0;
  const device = await scriptedDevice((asked) => {
    const pdu = Buffer.alloc(2 + 4);
    pdu.set([asked.function, 4]);
    pdu.writeUInt32BE((n += 1), 2);
    return frame(asked, pdu);
  });
  const dir = tempDir();
  const agent = new AgentProcess(
    dir,
    `
agent: { id: edge, dataDir: ./data }
log: file:./log
uplink: { order: oldestFirst } # by default what comes after the start overtakes what was left
sources:
  - type: modbus
    url: ${device.url}
    to: t
    groups: [{ sensor: s, interval: 10ms, registers: [{ name: n, address: 0, type: uint32 }] }]
`,
  );
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const before = n;
    agent.start();
    await vi.waitFor(() => expect(n, agent.output).toBeGreaterThan(before + 30), WAIT);
    await agent.end(signal);
  }
  const records = await numberedIn(`file:${join(dir, 'log')}`, 't');
  expect(records.length).toBeGreaterThan(40);
  expect(
    flawsOf(
      records.map((record) => ({ ...record, id: record.key ?? '' })),
      [],
    ),
  ).toEqual([]);
});
