import { expect, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema, type PipelineConfig } from '../../lib/config/pipeline.ts';

const head = 'log: file:./log\nstore: dir:./objects\nmeta: sqlite:./meta.db\n';
const parse = (rest: string): PipelineConfig => parseConfig(head + rest, 'pipeline.yaml', pipelineSchema);
const dataset = (rest: string): string => `datasets:\n  - { name: plant.vibration, topic: vibration${rest} }\n`;

test('every default of the documented configuration', () => {
  expect(parse(dataset(''))).toMatchObject({
    datasets: [{ sort: [], dedup: 'identity', schema: 'infer', value: { format: 'json' } }],
    lander: { commitEvery: 60_000, fileBytes: 128e6 },
    compactor: { targetBytes: 512e6, lag: 600_000, memoryBytes: 1e9, keepReplaced: 86_400_000 },
    catalog: null,
    topics: { partitions: 3, retention: 604_800_000 },
    serve: { port: 8080 },
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
  ['datasets: []\n', 'datasets'],
  ['datasets:\n  - { name: a, topic: t }\n  - { name: b, topic: t }\n', 'two datasets read the same topic'],
  [`${dataset('')}catalog: ftp://127.0.0.1:8181\n`, 'catalog: expected an http or https URL'],
])('%j is refused by name', (text, message) => {
  expect(() => parse(text)).toThrow(message);
});
