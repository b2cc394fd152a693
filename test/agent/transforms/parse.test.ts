/** The transform `parse`: what texts say, by JSON, logfmt and patterns, with types and times; and what becomes of what says nothing. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { agentSchema } from '../../../agent/config.ts';
import { validateAgent } from '../../../agent/main.ts';
import type { NewReading } from '../../../agent/spool/frame.ts';
import { TransformChain, type ChainRun } from '../../../agent/transforms/chain.ts';
import { timeFormatProblem, timeParser } from '../../../agent/transforms/parse/time-format.ts';
import { tempDir } from '../../support/temp.ts';

const ARRIVAL_MS = Date.UTC(2026, 0, 2, 12);

async function parsed(
  transform: Record<string, unknown>,
  ...values: readonly object[]
): Promise<ChainRun & { chain: TransformChain }> {
  const transforms = [{ type: 'parse', on: 't', field: 'message', ...transform }];
  const config = agentSchema.parse({ agent: { id: 'a' }, log: 'file:x', sources: [{ type: 'host' }], transforms });
  const chain = await TransformChain.open(config.transforms, '.');
  const readings = values.map((value): NewReading => ({
    ...{ topic: 't', key: 's', priority: 4, eventUs: 1, arrivalUs: ARRIVAL_MS * 1000 },
    value: JSON.stringify(value),
  }));
  const run = await chain.run(readings);
  run.commit();
  return { ...run, chain };
}

async function valuesOf(transform: Record<string, unknown>, ...values: readonly object[]): Promise<unknown[]> {
  return (await parsed(transform, ...values)).readings.map(({ value }) => JSON.parse(String(value)) as unknown);
}

const ACCESS = String.raw`^(?P<client>\S+) \S+ (?P<user>\S+) \[(?P<time>[^\]]+)\] "(?P<method>\S+) (?P<path>\S+)[^"]*" (?P<status>\d{3}) (?P<bytes>\S+)(?: "(?P<referer>[^"]*)")?`;

test("a pattern's groups become fields with their types, and a time among them that of the reading", async () => {
  const types = { status: 'number', bytes: 'number', time: { time: '%d/%b/%Y:%H:%M:%S %z' } };
  const { readings } = await parsed(
    { format: 'regex', pattern: ACCESS, types, eventTime: 'time' },
    { pod: 'web', message: '10.0.0.1 - frank [28/Nov/2026:13:55:36 +0100] "GET /a?b=1 HTTP/1.1" 404 -' },
  );
  expect(readings).toMatchObject([{ eventUs: Date.UTC(2026, 10, 28, 12, 55, 36) * 1000 }]);
  expect(JSON.parse(String(readings[0]?.value))).toEqual({
    ...{ pod: 'web', client: '10.0.0.1', user: 'frank', time: '2026-11-28T12:55:36Z' },
    ...{ method: 'GET', path: '/a?b=1', status: 404, bytes: null },
  });
});

test('JSON is parsed with all its digits; what it says cannot take the place of what the reading has, unless it may', async () => {
  const message = '{"level":"info","id":12345678901234567890,"pod":"forged","__proto__":1,"message":"hello"}';
  const run = await parsed({ format: 'json' }, { pod: 'web', message });
  expect(run.readings.map(({ value }) => value)).toEqual([
    `{"level":"info","id":12345678901234567890,"pod":"web","__proto__":1,"message":${JSON.stringify(message)}}`,
  ]);
  const text = '{"level":"info","pod":"forged"}';
  const reading = { pod: 'web', message: text };
  expect(await valuesOf({ format: 'json', overwrite: true }, reading)).toEqual([{ pod: 'forged', level: 'info' }]);
  expect(await valuesOf({ format: 'json', as: 'log' }, reading)).toEqual([
    { pod: 'web', log: { level: 'info', pod: 'forged' } },
  ]);
  expect(await valuesOf({ format: 'json', keepText: true }, { message: '{"message":"inner","a":1}' })).toEqual([
    { message: '{"message":"inner","a":1}', a: 1 },
  ]);
  expect(await valuesOf({ format: 'json' }, { message: '{"message":"inner","a":1}' })).toEqual([
    { message: 'inner', a: 1 },
  ]);
});

test('logfmt: quotes, escapes, words without a value', async () => {
  const types = { n: 'number', big: 'number', ok: 'boolean', at: { time: 'epochMs' } };
  const message = String.raw`level=info msg="it \"works\"\n" n=-1.50 big=+0012345678901234567890 ok=yes at=1795824002123 empty= a.b/c=1=2  cached`;
  const { readings } = await parsed({ format: 'logfmt', types, eventTime: 'at' }, { message });
  expect(readings.map(({ value }) => value)).toEqual([
    String.raw`{"level":"info","msg":"it \"works\"\n","n":-1.5,"big":12345678901234567890,"ok":true,"at":"2026-11-28T00:00:02.123Z","empty":"","a.b/c":"1=2","cached":true}`,
  ]);
  expect(readings[0]?.eventUs).toBe(1_795_824_002_123_000);
});

const NOT_PARSED = [
  { message: 'plain words' },
  { message: 'open="quote' },
  { message: 'a="b"c=1' },
  { message: '="x"' },
  { message: 'n=many' },
  { message: 7 },
];

test('what does not match is kept with its reason, quarantined or left out, as configured, and counted', async () => {
  const logfmt = { format: 'logfmt', types: { n: 'number' } };
  const kept = await parsed(logfmt, ...NOT_PARSED, { other: 1 }, { message: null });
  const not = 'message is no logfmt (key=value)';
  const reasons = [not, not, not, not, 'n is "many": expected a number', 'message is no text'];
  expect(kept.readings.map(({ value }) => JSON.parse(String(value)) as unknown)).toEqual([
    ...NOT_PARSED.map((value, index) => ({ ...value, parseProblem: reasons[index] })),
    { other: 1 },
    { message: null },
  ]);
  expect(kept.chain.counters()).toMatchObject([{ name: 'parse t.message logfmt', seen: 8, missed: 8, failed: 0 }]);
  const quarantined = await parsed({ ...logfmt, onMismatch: 'quarantine' }, ...NOT_PARSED, { other: 1 });
  expect(quarantined.failed.map(({ reason, reading: { value } }) => [reason, value])).toEqual(
    NOT_PARSED.map((value, index) => [reasons[index], JSON.stringify(value)]),
  );
  expect(quarantined.readings).toHaveLength(1);
  const dropped = await parsed({ ...logfmt, onMismatch: 'drop' }, ...NOT_PARSED, { other: 1 });
  expect(dropped.chain.counters()).toMatchObject([{ seen: 7, dropped: 6, missed: 1 }]);
  const regex = { format: 'regex', pattern: '(?P<n>(a|aa)+)b', onMismatch: 'quarantine' };
  const long = await parsed(regex, { message: 'a'.repeat(32_768) }, { message: 'a'.repeat(32_769) });
  expect(long.failed.map(({ reason }) => reason)).toEqual([
    'message does not match the pattern',
    'message is longer than 32768 characters',
  ]);
});

test.each([
  ['rfc3339', undefined, '2026-11-28T10:11:12.123456789+05:30', '2026-11-28T04:41:12.123456789Z'],
  ['rfc3339', undefined, '2026-11-28 10:11:12Z', '2026-11-28T10:11:12Z'],
  ['rfc3339', undefined, '2026-11-28T10:11:12', null],
  ['rfc3339', undefined, '2026-02-29T10:11:12Z', null],
  ['rfc3339', 'America/New_York', '2026-11-28T10:11:12,5', '2026-11-28T15:11:12.5Z'],
  ['epoch', undefined, '1795824002.123456789', '2026-11-28T00:00:02.123456789Z'],
  ['epochNs', undefined, '1795824002123456789', '2026-11-28T00:00:02.123456789Z'],
  ['epochUs', undefined, '5', '1970-01-01T00:00:00.000005Z'],
  ['epochMs', undefined, '1795824002123.4', '2026-11-28T00:00:02.1234Z'],
  ['epoch', undefined, '99999999999999999999', null],
  ['rfc3339', undefined, '0001-01-01T00:00:00Z', null],
  ['rfc3339', undefined, '9999-12-31T23:59:59Z', null],
  ['rfc3339', undefined, '2255-06-05T00:00:00Z', '2255-06-05T00:00:00Z'],
  ['%Y-%m-%d %H:%M:%S.%f', 'UTC', '2026-11-28 10:11:12.000001', '2026-11-28T10:11:12.000001Z'],
  ['%F %T', 'UTC', '2026-11-28 24:00:00', null],
  ['%m/%d/%y %I:%M %p', 'UTC', '7/4/26 12:30 AM', '2026-07-04T00:30:00Z'],
  ['%a %b %e %H:%M:%S %Y', 'Europe/Berlin', 'Fri Jul  3 10:11:12 2026', '2026-07-03T08:11:12Z'],
  // The hour that comes twice: the first of them; the one that is skipped: as much later.
  ['%F %T', 'Europe/Berlin', '2026-10-25 02:30:00', '2026-10-25T00:30:00Z'],
  ['%F %T', 'Europe/Berlin', '2026-10-25 03:00:00', '2026-10-25T02:00:00Z'],
  ['%F %T', 'Europe/Berlin', '2026-03-29 02:30:00', '2026-03-29T01:30:00Z'],
  // Without a year, seen from 2 January 2026.
  ['%b %d %H:%M:%S', 'UTC', 'Dec 31 23:59:60', '2026-01-01T00:00:00Z'],
  ['%b %d %H:%M:%S', 'UTC', 'Jan  3 11:00:00', '2026-01-03T11:00:00Z'],
  ['%b %d %H:%M:%S', 'UTC', 'Feb 29 11:00:00', null],
  ['[%s]', undefined, '[1795824002]', '2026-11-28T00:00:02Z'],
])('the time %s of %s: %s', (format, zone, text, expected) => {
  expect(timeFormatProblem(format, zone)).toBe(null);
  const time = timeParser(format, zone)(text, ARRIVAL_MS);
  expect(time?.text ?? null).toBe(expected);
  if (expected !== null) expect(Math.floor((time?.us ?? 0) / 1000)).toBe(Date.parse(expected));
});

test('what cannot be is refused, with key and remedy', async () => {
  const path = join(tempDir(), 'agent.yaml');
  const validate = async (...transforms: readonly string[]): Promise<string[]> => {
    const list = transforms.map((each) => `  - { type: parse, on: t, field: message, ${each} }\n`).join('');
    writeFileSync(path, `agent: { id: a }\nlog: file:./log\nsources: [{ type: host }]\ntransforms:\n${list}`);
    return (await validateAgent(path)).map(({ key, message }) => `${key}: ${message.slice(0, 90)}`);
  };
  expect(
    await validate(
      'format: regex',
      'format: json, pattern: x',
      "format: json, types: { a: { time: '%F %T' } }",
      "format: json, types: { a: { time: '%Q' } }",
      'format: json, types: { a: { time: rfc3339, zone: Mars/Olympus } }',
      "format: json, types: { a: { time: '%H:%M', zone: UTC } }",
      'format: json, types: { a: text }',
      'format: json, eventTime: a',
    ),
  ).toEqual([
    'transforms[0].pattern: the format regex needs a pattern',
    'transforms[1].pattern: only the format regex has one',
    'transforms[2].types.a.zone: the format has no %z: expected the zone of its times, as UTC or Europe/Berlin',
    expect.stringContaining('transforms[3].types.a.time: %Q is not known: expected %Y'),
    "transforms[4].types.a.zone: 'Mars/Olympus' is no time zone: expected UTC, or as Europe/Berlin",
    'transforms[5].types.a.time: expected a month and a day in it, or %s',
    expect.stringContaining('transforms[6].types.a: expected number, boolean, or { time: FORMAT, zone: ZONE }'),
    'transforms[7].eventTime: expected a field that `types` calls a time, as a: { time: rfc3339 }',
  ]);
  expect(
    await validate(
      "format: regex, pattern: '(?=x)'",
      "format: regex, pattern: '(x)'",
      "format: regex, pattern: '(?P<x>x)', types: { y: number }",
    ),
  ).toEqual([
    expect.stringContaining('transforms[0].pattern: no pattern of RE2'),
    String.raw`transforms[1].pattern: expected named groups, as (?P<status>\d+)`,
    'transforms[2].types: the pattern has no group y: it has x',
  ]);
});
