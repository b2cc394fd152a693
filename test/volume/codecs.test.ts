import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ByteWriter } from '../../lib/volume/bytes.ts';
import { decodeDentry, encodeDentry } from '../../lib/volume/dentry.ts';
import { extentsWithin, replaceExtents } from '../../lib/volume/extents.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { decodeChanges, encodeChanges } from '../../lib/volume/feed.ts';
import { decodeInode, encodeInode, newInode, S_IFDIR, S_IFLNK, S_IFREG } from '../../lib/volume/inode.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeLocks, encodeLocks } from '../../lib/volume/lock-record.ts';
import type { Lock } from '../../lib/volume/lock-record.ts';
import { decodePointer, decodeSegment, encodePointer, encodeSegment } from '../../lib/volume/listing.ts';

const whole = fc.nat({ max: 2 ** 45 });
const latin1 = fc.uint8Array({ minLength: 1, maxLength: 255 }).map((bytes) => Buffer.from(bytes).toString('latin1'));
const timeNs = fc.bigInt({ min: -(2n ** 60n), max: 2n ** 60n });

/** Extents in order that do not overlap, some external, some slices. */
const extents: fc.Arbitrary<Extent[]> = fc
  .array(
    fc.record({
      gap: fc.nat({ max: 1000 }),
      length: fc.integer({ min: 1, max: 2 ** 33 }),
      sliceOffset: fc.nat({ max: 100 }),
      rest: fc.nat({ max: 100 }),
      share: fc.constantFrom(1, 1, 2, 9),
      id: whole,
      crc: fc.nat({ max: 0xffffffff }),
      key: fc.option(fc.string({ minLength: 1, unit: 'grapheme' })),
    }),
    { maxLength: 12 },
  )
  .map((items) => {
    let end = 0;
    return items.map(({ gap, length, sliceOffset, rest, share, id, crc, key }): Extent => {
      const fileOffset = end + gap;
      end = fileOffset + length;
      const bytes = sliceOffset + length + rest;
      return {
        fileOffset,
        length,
        sliceOffset,
        source:
          key === null
            ? {
                kind: 'own',
                objectId: id,
                pieceOffset: rest,
                pieceBytes: bytes,
                storedBytes: Math.ceil(bytes / share),
                crc,
              }
            : { kind: 'external', key, objectBytes: bytes },
      };
    });
  });

describe('inode records', () => {
  test('survive encoding, for every type', () => {
    const fields = { nlink: whole, uid: fc.nat(), gid: fc.nat(), atimeNs: timeNs, mtimeNs: timeNs, ctimeNs: timeNs };
    fc.assert(
      fc.property(fc.record(fields), extents, whole, timeNs, (common, list, number, mtimeSetNs) => {
        const inodes = [
          newInode(S_IFREG | 0o644, 0, 0, 0n, { ...common, size: number, extents: list, mtimeSetNs: 0n }),
          newInode(S_IFDIR | 0o755, 0, 0, 0n, { ...common, parent: number, mtimeSetNs }),
          newInode(S_IFLNK | 0o777, 0, 0, 0n, { ...common, target: Buffer.from('a/b'), size: 3, mtimeSetNs: 0n }),
          newInode(0o020600, 0, 0, 0n, { ...common, rdev: number, mtimeSetNs: 0n }),
        ];
        for (const inode of inodes) expect(decodeInode(encodeInode(inode), 7)).toEqual(inode);
      }),
      { numRuns: 200 },
    );
  });

  test('of a small empty file fit into a listpack entry beside the version of the engine', () => {
    const nowNs = 1_800_000_000_123_456_789n;
    expect(encodeInode(newInode(S_IFREG | 0o644, 1_000_000, 1_000_000, nowNs)).length).toBeLessThanOrEqual(54);
  });

  test('with any flipped bit or missing byte are corrupt by name', () => {
    const record = encodeInode(newInode(S_IFREG | 0o644, 1, 2, 3n));
    for (let bit = 0; bit < record.length * 8; bit++) {
      const damaged = Buffer.from(record);
      damaged.writeUInt8(damaged.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(() => decodeInode(damaged, 42)).toThrow(/inode 42 is damaged/);
    }
    for (let length = 0; length < record.length; length++) {
      expect(() => decodeInode(record.subarray(0, length), 42)).toThrow(/inode 42 is damaged/);
    }
  });
});

test('directory entries keep any number below 2^53 and refuse other lengths', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat({ max: 15 }), (ino, type) => {
      expect(decodeDentry(encodeDentry(ino, type), 1, 'x')).toEqual({ ino, type });
    }),
  );
  expect(() => decodeDentry(Buffer.alloc(8), 1, 'name')).toThrow(/directory entry 'name' of inode 1 is damaged/);
});

test('the address of an inode is where a link from its entry leads', () => {
  const keys = new VolumeKeys('lake');
  fc.assert(
    fc.property(fc.maxSafeNat(), (ino) => {
      const id = encodeDentry(ino, 8).readBigUInt64BE(0);
      const { bucketPrefix, shift } = keys.entryToInode;
      const address = {
        bucket: `${bucketPrefix}${id >> BigInt(shift)}`,
        field: `${id & ((1n << BigInt(shift)) - 1n)}`,
      };
      expect(keys.inode(ino)).toEqual(address);
      expect(keys.inoOf(address.bucket, address.field)).toBe(ino);
    }),
  );
});

test('locks keep all that they are, and those of a mount of before are read, without a handle', () => {
  const lock: Lock = {
    kind: 'flock',
    type: 'write',
    owner: 2n ** 64n - 1n,
    start: 0n,
    end: 2n ** 63n - 1n,
    handle: 2n ** 63n,
    pid: 7,
    mount: 'm\xe4',
    session: 9,
  };
  const record = { held: [lock, { ...lock, kind: 'posix' as const }], waiting: [{ ...lock, ticket: 3 }] };
  expect(decodeLocks(encodeLocks(record) ?? Buffer.alloc(0), 5)).toEqual(record);
  const older = new ByteWriter().varint(2);
  for (const kind of [1, 2]) {
    older.u8(kind).u8(2).i64(-1n).i64(lock.start).i64(lock.end);
    older.varint(lock.pid).latin1(lock.mount).varint(lock.session);
  }
  const [posix, flock] = decodeLocks(older.varint(0).finish(), 5).held;
  expect(posix).toEqual({ ...lock, kind: 'posix', handle: 0n });
  expect(flock).toEqual({ ...lock, handle: 0n });
  expect(() => decodeLocks(new ByteWriter().varint(1).u8(5).u8(1).finish(), 5)).toThrow('a lock of kind 5/1');
});

test('feed messages and listings keep names byte for byte', () => {
  fc.assert(
    fc.property(
      fc.nat(),
      fc.array(fc.record({ name: latin1, ino: whole }), { maxLength: 20 }),
      whole,
      (n, entries, ms) => {
        const changes = entries.flatMap(({ name, ino }) => [
          { kind: 'entry', parent: ino, name } as const,
          { kind: 'listing', ino } as const,
          { kind: 'inode', ino } as const,
        ]);
        expect(decodeChanges(encodeChanges(n, changes))).toEqual({ session: n, changes });
        const pointer = {
          generation: n,
          changedMs: ms,
          segments: [{ segment: n, entries: 3 }],
          entries,
          retiredSegments: [{ segment: n, retiredMs: ms }],
          retiredEntries: entries.map((entry) => ({ ...entry, retiredMs: ms })),
        };
        expect(decodePointer(encodePointer(pointer), 1)).toEqual(pointer);
        expect(decodeSegment(encodeSegment(entries), 1, 2)).toEqual(entries);
      },
    ),
  );
});

test('replacing a range of extents changes what is read there and nothing else', () => {
  const byteAt = (list: readonly Extent[], at: number): string => {
    const [found] = extentsWithin(list, at, at + 1);
    return found === undefined ? 'hole' : `${JSON.stringify(found.source)}@${found.sliceOffset}`;
  };
  const small = extents.map((list) => list.map((e) => e).slice(0, 6));
  fc.assert(
    fc.property(small, fc.nat({ max: 5000 }), fc.integer({ min: 1, max: 5000 }), (list, from, length) => {
      const source = { kind: 'external', key: 'new', objectBytes: length } as const;
      const next = replaceExtents(list, from, from + length, [{ fileOffset: from, length, sliceOffset: 0, source }]);
      for (const at of [0, from - 1, from, from + length - 1, from + length, from + length + 1, 4999].filter(
        (x) => x >= 0,
      )) {
        const inside = at >= from && at < from + length;
        expect(byteAt(next, at)).toBe(inside ? `${JSON.stringify(source)}@${at - from}` : byteAt(list, at));
      }
    }),
  );
});
