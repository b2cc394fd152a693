/** The look for backing files that somebody has removed. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { BlockHashes } from '../../fs-gateway/data/block-hashes.ts';
import { FileHasher } from '../../fs-gateway/data/file-hasher.ts';
import { LiveFile } from '../../fs-gateway/data/live-file.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { WholeFiles } from '../../fs-gateway/data/whole-files.ts';
import { RemovedFiles } from '../../fs-gateway/vfs/removed-files.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { tempDir } from '../support/temp.ts';

const FILES = 300;
/** Inodes whose files are in the same folder. */
const FOLDERS = 256;
const NO_BYTES = Buffer.alloc(0);

test('a look asks for some hundreds of files; where they are removed those behind them are next, and one that cannot be asked keeps none from being found', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const dir = tempDir('removed');
  const staging = new Staging({
    dir: join(dir, 'staging'),
    life: 'life',
    bootId: 'boot',
    promises: false,
    isCommitted: () => false,
  });
  const wholeDir = join(dir, 'whole');
  const reports: string[] = [];
  const report = (message: string): void => void reports.push(message);
  const whole = new WholeFiles({
    dir: wholeDir,
    bytesMax: 1e9,
    freeBytesMin: 0,
    bootId: 'boot',
    isInUse: () => true,
    report,
  });
  const content = { size: 0, extents: [], inline: null };
  const base = { content, hashes: BlockHashes.of(NO_BYTES), bootId: 'boot', mtimeNs: 1n };
  const hasher = new FileHasher();
  for (let n = 1; n <= FILES; n++) {
    const ino = n * FOLDERS;
    whole.createLive(ino, NO_BYTES, () => base);
    staging.adopt(
      new LiveFile({
        ...{ ino, base, whole, hasher, appends: staging.appends, inlineBytes: 4096 },
        isQuiet: () => false,
        isCommitted: () => false,
        holes: () => [],
        read: () => undefined,
        nowNs: () => 1n,
      }),
    );
  }
  const committed: number[] = [];
  const removed = new RemovedFiles({ staging, whole, report }, (ino) => void committed.push(ino));
  onTestFinished(() => {
    removed.close();
    for (const file of staging.files.values()) if (file instanceof LiveFile) file.close();
    staging.close();
  });
  let looks = 0;
  replaceMethod(
    LiveFile.prototype,
    'isRemoved',
    (isRemoved) =>
      function (this: LiveFile) {
        looks++;
        if (this.ino === FOLDERS) throw new Error('the disk fails');
        return isRemoved.call(this);
      },
  );
  rmSync(wholeDir, { recursive: true });
  vi.advanceTimersByTime(1000);
  expect([looks, committed.length]).toEqual([256, 255]);
  // Not a second later.
  await new Promise((resolve) => setImmediate(resolve));
  expect([looks, committed.length]).toEqual([FILES, FILES - 1]);
  expect(reports).toEqual([expect.stringContaining('and 247 more'), expect.stringContaining('and 36 more')]);
  vi.advanceTimersByTime(2000);
  expect([looks, committed.length, reports.length]).toEqual([2 * FILES, FILES - 1, 2]);
});
