/** Whole files whose folder somebody removes under the mount. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { WholeFiles } from '../../fs-gateway/data/whole-files.ts';
import { tempDir } from '../support/temp.ts';

test('a folder of whole files that was removed under the mount is made anew by the next look for room', () => {
  const dir = join(tempDir('whole'), 'whole');
  const options = {
    dir,
    bytesMax: 1e9,
    freeBytesMin: 0,
    bootId: 'boot',
    isInUse: () => false,
    report: () => undefined,
  };
  const whole = new WholeFiles(options);
  rmSync(dir, { recursive: true });
  expect(whole.hasRoom(1)).toBe(true);
});
