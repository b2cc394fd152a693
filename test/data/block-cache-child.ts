/** Puts pieces into the cache in the folder that it is told, each larger than a page and of its own bytes, until it is killed. Says each that it has put. */
import { BlockCache } from '../../fs-gateway/data/block-cache.ts';
import { bytesOf, pieceOf } from './cached-pieces.ts';

const [, , dir = ''] = process.argv;
const cache = new BlockCache({ dir, bytesMax: 40 * 2 ** 20, freeBytesMin: 0 });
for (let n = 0; ; n++) {
  await cache.put(pieceOf(n), bytesOf(n));
  process.stdout.write(`${n}\n`);
}
