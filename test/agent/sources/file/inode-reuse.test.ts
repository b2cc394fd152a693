/** A file that gets the inode of one that was removed, on a file system that gives inodes again at once. */
import { appendFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import { isRoot, LoopDisk, memoryFolder } from '../../../support/loop-disk.ts';
import { AgentProcess } from '../../../support/agent-process.ts';
import { HANG_MS } from '../../../support/hang.ts';
import { tempDir } from '../../../support/temp.ts';
import { valuesIn } from '../../log-values.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, runSource } from '../support.ts';

const lines = (life: string, count: number): string =>
  Array.from({ length: count }, (_, n) => `{"life":"${life}","n":${n}}\n`).join('');

/** Removes the file and writes another one, which has its inode. */
function replaceFile(path: string, text: string): void {
  const { ino } = statSync(path);
  rmSync(path);
  writeFileSync(path, text);
  expect(statSync(path).ino).toBe(ino);
}

function setUp(): { readonly logs: string; readonly path: string } {
  const logs = join(LoopDisk.make(memoryFolder('64m')).mountpoint, 'logs');
  mkdirSync(logs);
  return { logs, path: join(logs, 'app.ndjson') };
}

async function expectText(spool: Spool, text: string): Promise<void> {
  const wanted = text.split('\n').slice(0, -1);
  await expect.poll(() => spool.lastSeq('t'), { timeout: HANG_MS, interval: 10 }).toBe(BigInt(wanted.length));
  expect(contentOf(await readAll(spool))).toEqual(wanted);
}

test.skipIf(!isRoot).each([
  // Longer than what a mark covers, shorter, and the same to the last byte.
  ['other content', lines('first', 50), lines('second', 60)],
  ['the same beginning', lines('first', 2), lines('first', 5)],
  ['the same content', lines('first', 3), lines('first', 3)],
])(
  'while the agent is down: a new file of %s is read from its beginning (needs root for a disk)',
  async (_, before, after) => {
    const dir = tempDir();
    const { logs, path } = setUp();
    const spool = await spoolIn(join(dir, 'spool'));
    writeFileSync(path, before);
    const start = async () => runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
    const first = await start();
    await expectText(spool, before);
    await first.stop();
    replaceFile(path, after);
    const second = await start();
    await expectText(spool, before + after);
    // And nothing of it again, or of what follows.
    await second.stop();
    appendFileSync(path, lines('later', 2));
    await start();
    await expectText(spool, before + after + lines('later', 2));
  },
);

test.skipIf(!isRoot)(
  'a running agent that has let a removed file go reads the one that got its inode from its beginning (needs root for a disk)',
  async () => {
    const dir = tempDir();
    const { logs, path } = setUp();
    const spool = await spoolIn(join(dir, 'spool'));
    let skippedMs = 0;
    const clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() + skippedMs };
    writeFileSync(path, lines('first', 3));
    runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir, clock);
    await expectText(spool, lines('first', 3));
    const { ino } = statSync(path);
    rmSync(path);
    // A name for each try: as long as the agent has the removed file open, others get other inodes.
    const wanted = lines('first', 3) + lines('first', 4);
    await expect
      .poll(
        () => {
          skippedMs += 2000;
          const probe = join(logs, 'probe');
          writeFileSync(probe, '');
          const isFree = statSync(probe).ino === ino;
          rmSync(probe);
          return isFree;
        },
        { timeout: HANG_MS, interval: 20 },
      )
      .toBe(true);
    writeFileSync(path, lines('first', 4));
    expect(statSync(path).ino).toBe(ino);
    await expectText(spool, wanted);
  },
);

test.skipIf(!isRoot)(
  'under kill -9 at every replacement, each line of each file is in the log once (needs root for a disk)',
  async () => {
    const dir = tempDir();
    const { logs, path } = setUp();
    const agent = new AgentProcess(
      dir,
      `agent: { id: a, dataDir: ./data }
log: file:./log
sources: [{ type: file, path: '${logs}/*.ndjson', to: t, poll: 10ms }]
`,
    );
    const wanted: string[] = [];
    for (let round = 0; round < 4; round += 1) {
      // Every second file begins as the one before it, whose rest is longer or shorter.
      const text = lines(`life ${Math.floor(round / 2)}`, 3 + ((round * 7) % 11));
      if (round === 0) writeFileSync(path, text);
      else replaceFile(path, text);
      wanted.push(...text.split('\n').slice(0, -1));
      agent.start();
      await expect
        .poll(async () => (await valuesIn(dir, 't')).length, { timeout: HANG_MS, interval: 20 })
        .toBe(wanted.length);
      await agent.end('SIGKILL');
    }
    const found = (await valuesIn(dir, 't')).map((value) => JSON.stringify(value));
    expect(found.toSorted()).toEqual(wanted.toSorted());
    expect(readFileSync(path, 'utf8')).not.toBe('');
  },
);
