/** Whole files whose folder somebody removes under the mount. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { WholeFiles } from '../../fs-gateway/data/whole-files.ts';
import { tempDir } from '../support/temp.ts';

const options = {
  bytesMax: 1e9,
  freeBytesMin: 0,
  bootId: 'boot',
  isInUse: () => false,
  report: () => undefined,
};

test('a folder of whole files that was removed under the mount is made anew by the next look for room', () => {
  const dir = join(tempDir('whole'), 'whole');
  const whole = new WholeFiles({ ...options, dir });
  rmSync(dir, { recursive: true });
  expect(whole.hasRoom(1)).toBe(true);
});

test('where the folder of whole files cannot be made anew there is no room in it, which is no error', () => {
  const dir = join(tempDir('whole'), 'whole');
  const whole = new WholeFiles({ ...options, dir });
  rmSync(dir, { recursive: true });
  writeFileSync(dir, 'in the way');
  expect(whole.hasRoom(1)).toBe(false);
});
