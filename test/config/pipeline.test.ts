import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { loadPipelineConfig, pipelineSchema, type PipelineConfig } from '../../lib/config/pipeline.ts';
import { tempDir } from '../support/temp.ts';

const head = 'log: file:./log\nstore: dir:./objects\nmeta: sqlite:./meta.db\n';
const parse = (rest: string): PipelineConfig => parseConfig(head + rest, 'pipeline.yaml', pipelineSchema);
const dataset = (rest: string): string => `datasets:\n  - { name: plant.vibration, topic: vibration${rest} }\n`;

test('every default of the documented configuration', () => {
  expect(parse(dataset(''))).toMatchObject({
    datasets: [
      {
        ...{ sort: [], dedup: 'identity', schema: 'infer', value: { format: 'json' } },
        compaction: { sizeMin: 0.75, sizeMax: 1.8, deleteRatio: 0, duplicateRatio: 0, mergeRatio: 0.1 },
      },
    ],
    lander: { commitEvery: 60_000, fileBytes: 128e6 },
    compactor: { targetBytes: 512e6, lag: 600_000, memoryBytes: 1e9, keepReplaced: 86_400_000 },
    catalog: null,
    topics: { partitions: 3, retention: 604_800_000 },
    serve: { port: 8080, maxConnections: 25_000 },
  });
});

test('a partly given section keeps the defaults of the rest', () => {
  expect(parse(`${dataset('')}compactor: { lag: 0s }\n`).compactor).toMatchObject({ lag: 0, targetBytes: 512e6 });
});

test.each([
  [dataset(', sorted: [a]'), 'datasets[0].sorted: unknown key'],
  [`${dataset('')}lander: { commitevery: 1s }\n`, 'lander.commitevery: unknown key'],
  [dataset(', value: { format: avro }'), 'datasets[0].value.registry: missing: avro and protobuf values'],
  [dataset(', dedup: sometimes'), 'datasets[0].dedup'],
  [dataset(', schema: [{ name: _seq, type: long }]'), 'must not begin with _'],
  [dataset(', schema: [{ name: a, type: number }]'), 'datasets[0].schema'],
  ['datasets:\n  - { name: "a/b", topic: t }\n', 'datasets[0].name'],
  ['datasets: []\n', 'datasets: expected at least one entry'],
  [dataset(', dedup: { key: a }'), 'datasets[0].dedup: expected identity, none or { key: [COLUMN, ...] }'],
  [dataset(', schema: guess'), 'datasets[0].schema: expected infer, or a list of { name, type, required }'],
  [`${dataset('')}topics: { partitions: 0 }\n`, 'topics.partitions: expected at least 1'],
  [`${dataset('')}serve: { port: 80000 }\n`, 'serve.port: expected at most 65535'],
  ['datasets:\n  - { name: a, topic: "" }\n', 'datasets[0].topic: is empty'],
  [dataset(', sort: [x, sensor], schema: [{ name: x, type: long }]'), 'sort[1]: schema declares no column sensor'],
  [dataset(', eventTime: at, schema: [{ name: x, type: long }]'), 'eventTime: schema declares no column at'],
  [dataset(', dedup: { key: [x, y] }, schema: [{ name: x, type: long }]'), 'dedup.key[1]: schema declares no column y'],
  ['datasets:\n  - { name: a, topic: t }\n  - { name: b, topic: t }\n', 'two datasets read the same topic'],
  [`${dataset('')}catalog: ftp://127.0.0.1:8181\n`, 'catalog: expected an http or https URL'],
])('%j is refused by name', (text, message) => {
  expect(() => parse(text)).toThrow(message);
});

test('a column that a declared schema has, or that the lander adds, may be sorted and de-duplicated by', () => {
  const columns = 'schema: [{ name: x, type: long }], sort: [x], eventTime: x, dedup: { key: [x, _offset] }';
  expect(parse(dataset(`, ${columns}`)).datasets[0]?.dedup).toEqual({ key: ['x', '_offset'] });
});

test('what is wrong with the URL of a port is told with file, line and key, before anything is opened', async () => {
  const path = join(tempDir(), 'pipeline.yaml');
  const refusal = async (log: string, store: string, meta: string): Promise<unknown> => {
    writeFileSync(path, `log: ${log}\nstore: ${store}\nmeta: ${meta}\n${dataset('')}`);
    return loadPipelineConfig(path).then(
      () => null,
      (error: unknown) => error instanceof Error && error.message.split('\n'),
    );
  };
  expect(await refusal('file:./log', 'dir:./o', 'sqlite:./m.db')).toBeNull();
  expect(
    await refusal('kafka://127.0.0.1:9092', 's3://b/p?endpoint=http://127.0.0.1:1', 'redis://h/1?volume=a'),
  ).toBeNull();
  expect(await refusal('kafka://h?tls=maybe', 's3://b?endpont=x', 'redis://h/x')).toEqual([
    expect.stringMatching(/pipeline\.yaml:1: log: .*tls=maybe, expected true or false$/),
    expect.stringMatching(/pipeline\.yaml:2: store: .*endpont: no such option/),
    expect.stringMatching(/pipeline\.yaml:3: meta: .*'\/x' is not a database/),
  ]);
  expect(await refusal("'file:'", "'dir:'", "'sqlite:'")).toEqual([
    expect.stringMatching(/:1: log: 'file:' names no path: expected file:DIR$/),
    expect.stringMatching(/:2: store: 'dir:' names no path: expected dir:PATH$/),
    expect.stringMatching(/:3: meta: 'sqlite:' names no path: expected sqlite:PATH$/),
  ]);
  expect(await refusal('file:./log?a=1', 'dir:./o?a=1', 'sqlite:./m.db?a=1')).toHaveLength(3);
  expect(await refusal('./log', 'ftp://h/p', 'm.db')).toHaveLength(3);
  // A file that the URL names may be on the machine that the configuration is for.
  expect(await refusal('kafka://h?sasl=plain&user=u&passwordFile=/nowhere/p', 'dir:./o', 'sqlite:./m.db')).toBeNull();
});
