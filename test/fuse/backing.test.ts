import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { DeviceBacking } from '../../fs-gateway/fuse/backing.ts';
import type { Native } from '../../fs-gateway/fuse/native.ts';
import { tempDir } from '../support/temp.ts';

/** As the kernel does: ids count up, and one that is given back is not given again. */
function playDevice(): Pick<Native, 'backingOpen' | 'backingClose' | 'testReadLease'> & { readonly ids: Set<number> } {
  const ids = new Set<number>();
  let last = 0;
  return {
    ids,
    backingOpen() {
      ids.add(++last);
      return last;
    },
    backingClose: (_, id) => (ids.delete(id) ? 0 : -2),
    testReadLease: () => 0,
  };
}

it('gives back the ids that a killed worker has left, and no other', () => {
  const device = playDevice();
  const backing = new DeviceBacking(device, 3);
  const path = join(tempDir('backing'), 'file');
  writeFileSync(path, '');
  for (let n = 0; n < 10; n++) backing.register(0);
  backing.unregister(4);
  backing.unregisterOthers(path, new Set([2, 7]));
  expect([...device.ids]).toEqual([2, 7]);
  // Nothing is left of the look itself, and it may come again.
  backing.unregisterOthers(path, new Set([2, 7]));
  expect([...device.ids]).toEqual([2, 7]);
});
