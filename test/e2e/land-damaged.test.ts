/** What an operator does about a damaged batch of a `file:` log: `penstock land` names the remedy, `--skip-damaged` is it. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  DATASET,
  expectAccounts,
  HOUR_MS,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
  TOPIC,
} from '../compactor/pipeline.ts';
import { startCommand } from './command.ts';

const numbered = (from: number, count: number) =>
  Array.from({ length: count }, (_, n) => recordOf({ seq: from + n, value: { sensor: 's', ts: HOUR_MS + from + n } }));

test('`land` stops at a damaged batch and says how to go on; `--skip-damaged` loses that batch alone, by name and number, once', async () => {
  const pipeline = await openTestPipeline();
  const configuration = join(pipeline.dir, 'pipeline.yaml');
  writeFileSync(configuration, pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  for (const from of [0, 10, 20]) await producer.append(0, numbered(from, 10));
  await producer.append(1, numbered(30, 5));
  const partition = join(pipeline.dir, 'log', 'topics', TOPIC, '0');
  const segment = join(partition, '00000000000000000000.log');
  const bytes = readFileSync(segment);
  const at = bytes.readInt32BE(8) + 12;
  const length = bytes.readInt32BE(at + 8) + 12;
  // The second batch claims another length than it has: nothing tells where the third one begins.
  bytes.writeInt32BE(length * 3, at + 8);
  writeFileSync(segment, bytes);
  const land = async (...more: readonly string[]) => {
    const command = startCommand(['land', '-c', configuration, '--once', '--json', ...more]);
    const status = await command.exit;
    return { status, stderr: command.stderr(), summary: JSON.parse(command.stdout()) as unknown };
  };

  const stopped = await land();
  expect(stopped).toMatchObject({ status: 3, summary: { records: 15, lost: 0 } });
  expect(stopped.stderr).toContain(`${segment} at byte ${at}`);
  expect(stopped.stderr).toContain('`penstock land --skip-damaged` counts the damaged records as lost');
  await expectAccounts(pipeline.lake, { landed: 15, lost: 0 });

  const copy = join(partition, '00000000000000000010.damaged');
  expect(existsSync(copy)).toBe(false);
  const skipped = await land('--skip-damaged');
  expect(skipped).toMatchObject({ status: 3, summary: { records: 10, rows: 10, lost: 10 } });
  expect(skipped.stderr).toBe(
    `penstock: ${DATASET}: vibration/0: offsets 10 to 19 are lost: ${segment} at byte ${at}: ${length} bytes are damaged, kept in ${copy}\n`,
  );
  expect(readFileSync(copy)).toEqual(bytes.subarray(at, at + length));
  await expectAccounts(pipeline.lake, { landed: 25, lost: 10 });

  expect(await land('--skip-damaged')).toMatchObject({ status: 0, stderr: '', summary: { records: 0, lost: 0 } });
  const seen = (await readRows(pipeline.lake)).map((row) => Number(row['_seq'])).sort((a, b) => a - b);
  expect(seen).toEqual(Array.from({ length: 25 }, (_, n) => (n < 10 ? n : n + 10)));
  await expectAccounts(pipeline.lake, { landed: 25, lost: 10 });
});
