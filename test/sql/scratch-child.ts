/** Makes and removes scratch directories below argv[2], argv[3] times; a file in each must stay until its owner removes it. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeScratch } from '../../lib/sql/scratch.ts';

const [root = '', times = '0'] = process.argv.slice(2);
for (let n = 0; n < Number(times); n++) {
  const scratch = await makeScratch(root, 'test');
  const file = join(scratch.path, 'spill');
  writeFileSync(file, 'x');
  await new Promise((resolve) => setImmediate(resolve));
  if (!existsSync(file)) throw new Error(`${file} was removed under its owner`);
  scratch.remove();
}
