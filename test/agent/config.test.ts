import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { remarksOf } from '../../agent/config-remarks.ts';
import { loadAgentConfig, validateAgent } from '../../agent/main.ts';
import { tempDir } from '../support/temp.ts';

function configFile(text: string): string {
  const path = join(tempDir(), 'agent.yaml');
  writeFileSync(path, text);
  return path;
}

test('the smallest configuration gets the documented defaults', async () => {
  const path = configFile('agent: { id: edge-7 }\nlog: file:./data/log\nsources: [{ type: host }]\n');
  const { config, baseDir } = await loadAgentConfig(path);
  expect(join(baseDir, 'agent.yaml')).toBe(path);
  expect(config).toEqual({
    agent: { id: 'edge-7', dataDir: './data/agent' },
    log: 'file:./data/log',
    spool: { maxBytes: 10_000_000_000, whenFull: 'reject', fsync: 'group' },
    uplink: { bytesPerSecond: 0, bytesPerDay: 0, order: 'liveFirst', maxAge: {} },
    sources: [{ type: 'host', interval: 10_000, to: 'host', priority: 4 }],
    transforms: [],
    rules: [],
    traces: { every: 60_000 },
  });
});

test('every problem is reported at once, with line, key and what was expected', async () => {
  const path = configFile(`agent: { id: "edge 7", dataDirectory: x }
log: http://somewhere
spool:
  maxBytes: 10XB
  whenFull: dropNewest
uplink: { bytesPerDay: 5XB }
sources:
  - { type: opc, url: modbus://127.0.0.1:502 }
  - { type: fiel, path: x }
  - { type: file, path: x, to: "a b", priority: 12 }
  - type: host
    intervall: 5s
  - { type: simulator, rate: -1 }
transforms:
  - { type: deadband }
  - { type: filter, on: x, keep: 'rms > x' }
  - { type: wsam }
`);
  const message = await loadAgentConfig(path).then(
    () => '',
    (error: unknown) => String(error),
  );
  const expected: [number, string][] = [
    [1, 'agent.id: expected printable ASCII without spaces'],
    [1, 'agent.dataDirectory: unknown key'],
    [2, 'log: expected the URL of a log'],
    [4, "spool.maxBytes: '10XB' is not a size"],
    [5, 'spool.whenFull: expected one of reject, dropOldest, dropLowestPriority'],
    [6, "uplink.bytesPerDay: '5XB' is not a size"],
    [
      8,
      "sources[0].type: 'opc' is not a type of source: expected one of host, file, http, mqtt, syslog, journald, modbus, opcua, simulator",
    ],
    [
      9,
      "sources[1].type: 'fiel' is not a type of source: expected one of host, file, http, mqtt, syslog, journald, modbus, opcua, simulator",
    ],
    [10, 'sources[2].to: expected a topic name'],
    [10, 'sources[2].priority: '],
    [12, 'sources[3].intervall: unknown key'],
    [13, 'sources[4].rate: '],
    [15, 'transforms[0].on: missing'],
    [15, 'transforms[0].field: missing'],
    [15, 'transforms[0].by: missing'],
    [16, 'transforms[1].keep: at character 1: unknown name rms: a field is value.rms; beside value there are sensor'],
    [17, "transforms[2].type: 'wsam' is not a type of transform: expected one of rename, "],
  ];
  for (const [line, text] of expected) expect(message).toContain(`${path}:${line}: ${text}`);
  const problems = await validateAgent(path);
  expect(problems.map(({ line, key }) => [line, key])).toEqual(
    expected.map(([line, text]) => [line, text.slice(0, text.indexOf(':'))]),
  );
});

test('what two sources cannot share, what the spool has no room for, and keys that exclude each other are refused', async () => {
  const head = 'agent: { id: a }\nlog: file:x\n';
  const twice = configFile(`${head}sources: [{ type: file, path: x, to: t }, { type: file, path: x, to: u }]`);
  await expect(loadAgentConfig(twice)).rejects.toThrow('two file sources have the same path');
  const http = '{ type: http, listen: 127.0.0.1:80, to: t';
  const listening = configFile(`${head}sources: [${http}}, ${http}, path: /b}]`);
  await expect(loadAgentConfig(listening)).rejects.toThrow('sources[1].listen: two sources listen on the same address');
  const own = configFile(`agent: { id: a, listen: 127.0.0.1:80 }\nlog: file:x\nsources: [${http}}]`);
  await expect(loadAgentConfig(own)).rejects.toThrow('sources[0].listen: the agent itself listens there');
  const keys = configFile(`${head}spool: { maxBytes: 1MiB }\nsources: [${http}, idempotencyKeys: 1000}]`);
  await expect(loadAgentConfig(keys)).rejects.toThrow('has room for 256 keys of each source');
  const tokens = configFile(`${head}sources: [${http}, token: a, tokenFile: b}]`);
  await expect(loadAgentConfig(tokens)).rejects.toThrow('sources[0].tokenFile: a token and a file with it are given');
  const csv = configFile(`${head}sources: [{ type: file, path: x.csv, to: t, start: end }]`);
  await expect(loadAgentConfig(csv)).rejects.toThrow('sources[0].start: a CSV file must be read from its beginning');
});

test('an address of a device or broker that is no URL is a problem with its line, not a crash of the comparison with others', async () => {
  const path = configFile(
    'agent: { id: a }\nlog: file:x\nsources:\n  - { type: mqtt, url: 127.0.0.1:1883, topics: [a], to: t }\n  - { type: modbus, url: 127.0.0.1:502, to: t, groups: [{ sensor: s, registers: [{ name: r, address: 0 }] }] }\n',
  );
  const problems = await validateAgent(path);
  expect(problems.map(({ line, key }) => [line, key])).toEqual([
    [4, 'sources[0].url'],
    [5, 'sources[1].url'],
  ]);
});

test('a transform whose topic nobody gives is a remark, and no fault', async () => {
  const head = 'agent: { id: a }\nlog: file:x\nsources: [{ type: host, to: host }]\ntransforms:\n';
  const remarks = async (transforms: string): Promise<readonly string[]> =>
    remarksOf((await loadAgentConfig(configFile(head + transforms))).config);
  const select = (on: string): string => `  - { type: select, on: ${on}, fields: [a] }\n`;
  expect(await remarks(select('hots'))).toEqual(["transforms[0].on: no source gives the topic 'hots': there are host"]);
  const routed = "  - { type: route, on: host, when: 'true', to: alarms }\n";
  expect(await remarks(routed + select('alarms') + select('host'))).toEqual([]);
});

test('transforms that cannot be told apart, or hold back more than the spool has room for, and wrong units are refused', async () => {
  const problemsOf = async (transforms: string, maxBytes = '1GB'): Promise<string> => {
    const path = configFile(
      `agent: { id: a }\nlog: file:x\nspool: { maxBytes: ${maxBytes} }\nsources: [{ type: host }]\ntransforms:\n${transforms}`,
    );
    return (await validateAgent(path)).map(({ line, key, message }) => `${line} ${key}: ${message}`).join('\n');
  };
  const door = '  - { type: swingingDoor, on: t, field: v, by: 1 }\n';
  expect(await problemsOf(door)).toBe('');
  expect(await problemsOf(door + door)).toContain('7 transforms[1]: the same as another one above');
  expect(await problemsOf(door, '2MiB')).toMatch(/^5 transforms: what .* can take 1500000 bytes, at most 131072/);
  const convert = (from: string, to: string): string =>
    `  - { type: convert, on: t, field: v, from: ${from}, to: ${to} }\n`;
  expect(await problemsOf(convert('psi', 'bar'))).toBe('');
  expect(await problemsOf(convert('PSI', 'bar'))).toContain(
    "6 transforms[0].from: 'PSI' is not a unit: expected one of K, ",
  );
  expect(await problemsOf(convert('psi', 'degC'))).toContain(
    "6 transforms[0].to: 'degC' is not a unit of pressure as 'psi' is: expected one of Pa, hPa, ",
  );
});

test('a modbus source: what its keys may be', async () => {
  const path = configFile(`agent: { id: a }
log: file:x
sources:
  - { type: modbus, url: "mqtt://x", to: t, groups: [] }
  - type: modbus
    url: modbus://x/3
    unit: 256
    interval: 1ms
    mergeGap: 126
    to: t
    groups:
      - sensor: s
        registers:
          - { name: ts, address: 400108 }
          - { name: a, table: coil, address: 1, type: int16 }
          - { name: b, address: 65535, type: float32 }
          - { name: c, address: 1, type: string }
          - { name: c, address: 1, type: bool }
          - { name: d, address: 1, bit: 16, length: 2, scale: x }
          - { name: e, address: 1, type: int24 }
          - { name: f, table: coil, address: 1, scale: 2 }
`);
  const problems = (await validateAgent(path)).map(({ line, key, message }) => `${line} ${key}: ${message}`);
  const register = (index: number): string => `sources[1].groups[0].registers[${index}]`;
  const expected = [
    '4 sources[0].url: expected the URL of a device or gateway, as modbus://192.168.0.10:502',
    '4 sources[0].groups: expected at least one group of registers',
    '6 sources[1].url: expected nothing behind host and port',
    '7 sources[1].unit: ',
    '8 sources[1].interval: expected 10ms to 24h',
    '9 sources[1].mergeGap: ',
    `14 ${register(0)}.name: sensor, ts, quality, problem are fields of every reading already`,
    `14 ${register(0)}.address: expected 0 to 65535, the address in the protocol: what a manual calls 400108 is 107 of holding`,
    `15 ${register(1)}.type: a coil is one bit: expected bool`,
    `16 ${register(2)}.address: the value reaches beyond address 65535`,
    `17 ${register(3)}.length: a string needs its length in bytes`,
    `18 ${register(4)}.bit: a bool in a register needs its bit: 0 (the lowest) to 15`,
    `19 ${register(5)}.bit: `,
    `19 ${register(5)}.scale: `,
    `20 ${register(6)}.type: expected one of bool, int16, uint16, `,
    `21 ${register(7)}.scale: a bool cannot be scaled`,
  ];
  for (const text of expected) expect(problems.filter((problem) => problem.startsWith(text))).toHaveLength(1);
  expect(problems).toHaveLength(expected.length);
  const head = 'agent: { id: a }\nlog: file:x\nsources:\n';
  const modbus = (url: string, register: string, more = ''): string =>
    `  - { type: modbus, url: "${url}", to: t, ${more}groups: [{ sensor: s, registers: [${register}] }] }\n`;
  const wide = configFile(head + modbus('modbus://x', '{ name: n, address: 0, type: int32 }', 'maxRegisters: 1, '));
  await expect(loadAgentConfig(wide)).rejects.toThrow('.type: the value has 2 registers, and maxRegisters is 1');
  const same = '{ name: n, address: 0 }';
  const twice = configFile(head + modbus('modbus://x', `${same}, ${same}`));
  await expect(loadAgentConfig(twice)).rejects.toThrow('another register of this group is called n');
  const clash = configFile(head + modbus('modbus://x', same) + modbus('modbus://x:502', same));
  await expect(loadAgentConfig(clash)).rejects.toThrow('sources[1].url: two modbus sources have the same device');
});

test('an mqtt source: what its keys may be', async () => {
  const head = 'agent: { id: a }\nlog: file:x\nsources:\n';
  const mqtt = (more: string): string => `  - { type: mqtt, to: t, ${more} }\n`;
  const path = configFile(
    head +
      mqtt('url: "http://x", topics: [a]') +
      mqtt('url: "mqtt://u:p@x", topics: []') +
      mqtt('url: "mqtt://x/path", topics: ["a/#/b", "a+", "$share/g", ""]') +
      mqtt('url: "mqtt://y", topics: [a, a], qos: 3, version: 4') +
      mqtt('url: "mqtt://z", topics: [a], keepAlive: 1ms, receiveMaximum: 0, tls: { cert: c }'),
  );
  const problems = (await validateAgent(path)).map(({ line, key, message }) => `${line} ${key}: ${message}`);
  for (const expected of [
    '4 sources[0].url: expected the URL of a broker',
    '5 sources[1].url: a user and password do not belong into the URL',
    '5 sources[1].topics: expected at least one topic filter',
    '6 sources[2].url: expected nothing behind host and port',
    "6 sources[2].topics[0]: '#'",
    "6 sources[2].topics[1]: 'a+'",
    '6 sources[2].topics[2]: expected $share/GROUP/FILTER',
    '6 sources[2].topics[3]: expected 1 to 65535 bytes',
    '7 sources[3].topics: a topic filter is named twice',
    '7 sources[3].qos: expected one of 0, 1, 2',
    '7 sources[3].version: ',
    '8 sources[4].keepAlive: expected 1s to 18h',
    '8 sources[4].receiveMaximum: ',
    '8 sources[4].tls: expected both `cert` and `key`, or none',
  ]) {
    expect(problems.filter((problem) => problem.startsWith(expected))).toHaveLength(1);
  }
  const clients = configFile(head + mqtt('url: "mqtt://x", topics: [a]') + mqtt('url: "mqtt://x:1883", topics: [b]'));
  await expect(loadAgentConfig(clients)).rejects.toThrow('sources[1].clientId: two mqtt sources are one client');
});

test('a URL of the log that no driver takes is a problem of the configuration, not of the link', async () => {
  const problemsOf = async (log: string): Promise<unknown> =>
    (await validateAgent(configFile(`agent: { id: e }\nsources: [{ type: host }]\nlog: ${log}\n`))).map(
      ({ line, key, message }) => `${line} ${key}: ${message}`,
    );
  expect(await problemsOf('kafka://h:9092?tls=maybe')).toEqual([
    '3 log: kafka://h:9092: tls=maybe, expected true or false',
  ]);
  expect(await problemsOf('kafka://h?foo=1')).toEqual([expect.stringMatching(/unknown option 'foo'/)]);
  expect(await problemsOf("'file:'")).toEqual([expect.stringMatching(/names no path: expected file:DIR/)]);
  expect(await problemsOf('kafka://h?sasl=plain&user=u&passwordFile=./password')).toEqual([]);
});

test('validate names every password, token, key and certificate that cannot be read, with its line', async () => {
  const path = configFile(`agent: { id: e }
log: file:./log
control: { url: 'http://127.0.0.1:1', tokenFile: ./no-token }
sources:
  - { type: mqtt, url: 'mqtts://h', topics: ['#'], user: u, passwordFile: ./no-password, to: a, tls: { ca: ./no-ca } }
  - { type: http, listen: '127.0.0.1:0', to: b, tokenFile: ./empty, tls: { cert: ., key: ./key } }
`);
  writeFileSync(join(dirname(path), 'empty'), '');
  writeFileSync(join(dirname(path), 'key'), 'k');
  const problems = await validateAgent(path);
  expect(problems.map(({ line, key, message }) => [line, key, message.split(':').slice(0, 2).join(':')])).toEqual([
    [3, 'control.tokenFile', 'cannot read ./no-token: ENOENT'],
    [5, 'sources[0].passwordFile', 'cannot read ./no-password: ENOENT'],
    [5, 'sources[0].tls.ca', 'cannot read ./no-ca: ENOENT'],
    [6, 'sources[1].tokenFile', 'cannot read ./empty: it is empty'],
    [6, 'sources[1].tls.cert', 'cannot read .: it is no file'],
  ]);
  // It runs all the same: they may come later.
  expect((await loadAgentConfig(path)).config.sources).toHaveLength(2);
});
