/** Puts objects of 300,000 equal bytes until it is killed; prints the key of each that was acknowledged. */
import { openDirStore } from '../../lib/store/dir/dir-store.ts';

const store = await openDirStore(new URL(`dir:${process.argv[2] ?? ''}`));
const put = async (worker: number): Promise<never> => {
  for (let n = 0; ; n++) {
    const key = `w${worker}/${n % 7}/${n}-${n % 10}`;
    await store.put(key, Buffer.alloc(300_000, n % 10));
    process.stdout.write(`${key}\n`);
  }
};
await Promise.all([0, 1, 2].map(put));
