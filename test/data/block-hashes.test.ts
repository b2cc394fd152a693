/** Hashes of blocks beside the bytes themselves: what differs is found, and nothing else, whatever is hole or zeros. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockHashes, blockCount, HASH_BLOCK_BYTES } from '../../fs-gateway/data/block-hashes.ts';
import { decodeWhole, encodeWhole } from '../../fs-gateway/data/whole-record.ts';

/** Three chunks of hashes. */
const BLOCKS_MAX = 150;
const END = BLOCKS_MAX * HASH_BLOCK_BYTES;

/** Some blocks with a letter in them, the rest zeros. */
const content = fc.record({
  bytes: fc.oneof(
    fc.integer({ min: 0, max: END }),
    fc.integer({ min: 0, max: BLOCKS_MAX }).map((blocks) => blocks * HASH_BLOCK_BYTES),
  ),
  written: fc.array(fc.tuple(fc.integer({ min: 0, max: BLOCKS_MAX - 1 }), fc.constantFrom(1, 2)), { maxLength: 6 }),
});
type Content = typeof content extends fc.Arbitrary<infer T> ? T : never;

const letters = ({ bytes, written }: Content): Map<number, number> =>
  new Map(written.filter(([block]) => block < blockCount(bytes)));

/** Only what is no hole is put, as of a file with holes. */
function hashed(made: Content): BlockHashes {
  const hashes = new BlockHashes(made.bytes);
  for (const [block, letter] of letters(made))
    hashes.put(block, Buffer.alloc(Math.min(HASH_BLOCK_BYTES, made.bytes - block * HASH_BLOCK_BYTES), letter));
  return hashes;
}

/** What is in a block and how long it is; undefined behind the end. */
function blockOf(made: Content, block: number): string | undefined {
  if (block >= blockCount(made.bytes)) return undefined;
  const length = Math.min(HASH_BLOCK_BYTES, made.bytes - block * HASH_BLOCK_BYTES);
  return `${letters(made).get(block) ?? 0} ${length}`;
}

test('the differences of two files are those of their blocks, and of those the holes', () => {
  fc.assert(
    fc.property(content, content, (ours, base) => {
      const found: string[] = [];
      for (const { first, end, hole } of hashed(ours).differences(hashed(base)))
        for (let block = first; block < end; block++) found.push(`${block} ${String(hole)}`);
      const wanted: string[] = [];
      for (let block = 0; block < blockCount(ours.bytes); block++) {
        const [here, there] = [blockOf(ours, block), blockOf(base, block)];
        if (here !== there) wanted.push(`${block} ${String(here === `0 ${HASH_BLOCK_BYTES}`)}`);
        expect(hashed(ours).same(hashed(base), block)).toBe(here === there);
      }
      expect(found).toEqual(wanted);
    }),
    { numRuns: 60 },
  );
});

test('a record gives them back, of a file with holes and of one without, and of one that was cut and became long again', () => {
  fc.assert(
    fc.property(content, content, (made, other) => {
      const hashes = hashed(made);
      const record = { content: { size: made.bytes, extents: [], inline: null }, bootId: 'b', mtimeNs: 1n, hashes };
      const read = decodeWhole(encodeWhole(record), 'record').hashes;
      expect(read.equals(hashes)).toBe(true);
      // But for the blocks at the ends, which are for others to say.
      const cut = hashes.resized(other.bytes).resized(END);
      const kept = Math.floor(Math.min(made.bytes, other.bytes) / HASH_BLOCK_BYTES);
      for (let block = 0; block < BLOCKS_MAX; block++) {
        if (block === kept) continue;
        expect(cut.isZero(block)).toBe(block > kept || letters(made).get(block) === undefined);
      }
    }),
    { numRuns: 60 },
  );
});

test('records of before, with every hash in order, are read; of what is missing nothing is known', () => {
  const bytes = Buffer.alloc(70 * HASH_BLOCK_BYTES + 5, 'x');
  const hashes = BlockHashes.of(bytes);
  const list = hashes.toList();
  if (list === null) throw new Error('there is no hole');
  expect(BlockHashes.fromList(bytes.length, list).equals(hashes)).toBe(true);
  const short = BlockHashes.fromList(bytes.length, list.subarray(0, 69 * 8 + 3));
  expect([...short.differences(hashes)].map(({ first }) => first)).toEqual([69, 70]);
});

test('a petabyte of holes is compared at once', () => {
  const [hashes, base] = [new BlockHashes(2 ** 50), new BlockHashes(0)];
  hashes.put(2 ** 33, Buffer.alloc(HASH_BLOCK_BYTES, 'x'));
  expect([...hashes.differences(base)].filter(({ hole }) => !hole)).toEqual([
    { first: 2 ** 33, end: 2 ** 33 + 1, hole: false },
  ]);
  expect(hashes.chunks.size).toBe(1);
});
