import { constants } from 'node:fs';
import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { PosixError, Errno, type Entry } from '../../fs-gateway/vfs/operations.ts';
import { Listing } from '../../fs-gateway/fuse/listing.ts';
import type { Native } from '../../fs-gateway/fuse/native.ts';
import { OPCODES } from '../../fs-gateway/fuse/opcodes.ts';
import { IN_HEADER_BYTES } from '../../fs-gateway/fuse/protocol.ts';
import { ReplyWriter } from '../../fs-gateway/fuse/reply.ts';
import { RequestReader } from '../../fs-gateway/fuse/request.ts';

const entry: Entry = {
  attributes: {
    ino: 0x1122334455667788n,
    generation: 7n,
    mode: 0o100640,
    nlink: 3,
    uid: 1000,
    gid: 1001,
    rdev: 0,
    size: 2n ** 40n,
    blocks: 8n,
    blockSize: 4096,
    atimeNs: 1_500_000_000n * 10n ** 9n + 1n,
    mtimeNs: -1n,
    ctimeNs: 0n,
  },
  entryTtlMs: 1_500,
  attributesTtlMs: 60_000,
};

/** Captures what would be written to /dev/fuse. */
function capture(): { sys: Native; written: Buffer[] } {
  const written: Buffer[] = [];
  const unused = (): never => {
    throw new Error('not a part of this test');
  };
  const sys: Native = {
    mount: unused,
    umount2: unused,
    read: unused,
    setNonBlocking: unused,
    eventfd: unused,
    uvBackendFd: unused,
    pollPair: unused,
    hasEnded: unused,
    socketPair: unused,
    receiveFd: unused,
    connectUnix: unused,
    sendFd: unused,
    backingOpen: () => 0,
    backingClose: () => 0,
    testReadLease: () => 0,
    omitAccessTimes: () => 0,
    seek: () => 0,
    write(_fd, from, bytes) {
      written.push(Buffer.from(from.subarray(0, bytes)));
      return bytes;
    },
    writeBoth(_fd, head, headBytes, body) {
      written.push(Buffer.concat([head.subarray(0, headBytes), body]));
      return headBytes + body.length;
    },
  };
  return { sys, written };
}

function request(opcode: number, body: Buffer, { ino = 1n, claimed = IN_HEADER_BYTES + body.length } = {}): Buffer {
  const header = Buffer.alloc(IN_HEADER_BYTES);
  header.writeUInt32LE(claimed, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeBigUInt64LE(42n, 8);
  header.writeBigUInt64LE(ino, 16);
  return Buffer.concat([header, body]);
}

function load(bytes: Buffer): RequestReader {
  const buffer = Buffer.alloc(4096);
  bytes.copy(buffer);
  const reader = new RequestReader(buffer, true);
  expect(reader.load(bytes.length)).toBe(true);
  return reader;
}

const numbers = OPCODES.flatMap((opcode, number) => (opcode === undefined ? [] : [number]));
const decode = (number: number, body: Buffer): unknown => OPCODES[number]?.decode(load(request(number, body)));

describe('request decoding', () => {
  it('answers random bytes with a PosixError or arguments, never with another exception', () => {
    fc.assert(
      fc.property(fc.constantFrom(...numbers), fc.uint8Array({ maxLength: 300 }), (number, bytes) => {
        try {
          decode(number, Buffer.from(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(PosixError);
        }
      }),
      { numRuns: 20_000 },
    );
  });

  it('refuses every request that is cut short, whatever lies behind it in the buffer', () => {
    // Behind the short request the buffer holds the zeros of an earlier one: reading on would decode something.
    const fixed: Readonly<Record<number, number>> = {
      2: 8,
      3: 4,
      4: 88,
      14: 4,
      15: 36,
      16: 40,
      31: 44,
      43: 28,
      46: 20,
      47: 48,
    };
    for (const [number, bytes] of Object.entries(fixed)) {
      for (let length = 0; length < bytes; length += 4) {
        expect(() => decode(Number(number), Buffer.alloc(length)), `opcode ${number}, ${length} bytes`).toThrow(
          expect.objectContaining({ errno: Errno.EINVAL }),
        );
      }
      expect(() => decode(Number(number), Buffer.alloc(bytes + 4))).not.toThrow();
    }
  });

  it('refuses lengths that point outside of the request', () => {
    const write = Buffer.alloc(40 + 10);
    write.writeUInt32LE(11, 16);
    expect(() => decode(16, write)).toThrow(/too short/);
    const forget = Buffer.alloc(8 + 16);
    forget.writeUInt32LE(0xffff_ffff, 0);
    expect(() => decode(42, forget)).toThrow(/4294967295 entries/);
    const setxattr = Buffer.concat([Buffer.alloc(16), Buffer.from('user.a\0value')]);
    setxattr.writeUInt32LE(6, 0);
    expect(() => decode(21, setxattr)).toThrow(/too short/);
    setxattr.writeUInt32LE(5, 0);
    expect(decode(21, setxattr)).toMatchObject({ name: 'user.a', value: Buffer.from('value') });
  });

  it('ignores a request whose own length is not what was read', () => {
    for (const claimed of [0, IN_HEADER_BYTES, 4096]) {
      const bytes = request(1, Buffer.from('name\0'), { claimed });
      const buffer = Buffer.alloc(4096);
      bytes.copy(buffer);
      expect(new RequestReader(buffer, true).load(bytes.length)).toBe(false);
    }
    expect(new RequestReader(Buffer.alloc(4096), true).load(12)).toBe(false);
  });

  it('keeps names byte for byte and bounds them', () => {
    const bytes = Buffer.from([0xff, 0x80, 0x41, 0]);
    expect(decode(1, bytes)).toBe('\u00ff\u0080A');
    expect(() => decode(1, Buffer.from(`${'x'.repeat(256)}\0`))).toThrow(
      expect.objectContaining({ errno: Errno.ENAMETOOLONG }),
    );
    expect(() => decode(1, Buffer.from('no end'))).toThrow(/terminating/);
    expect(() => decode(1, Buffer.from('\0'))).toThrow(/empty/);
  });

  it('takes only the fields of SETATTR that are valid', () => {
    const body = Buffer.alloc(88);
    body.writeUInt32LE((1 << 3) | (1 << 4) | (1 << 7) | (1 << 5), 0);
    body.writeBigUInt64LE(123n, 16);
    body.writeBigInt64LE(-2n, 40);
    body.writeUInt32LE(999_999_999, 60);
    expect(decode(4, body)).toEqual({ size: 123n, atimeNs: 'now', mtimeNs: -1_000_000_001n });
  });

  it('takes a write for a direct one by its owner of locks, not by flags that F_SETFL may have changed since it began', () => {
    const body = Buffer.alloc(40);
    body.writeUInt32LE(constants.O_RDWR | constants.O_APPEND | constants.O_DIRECT, 32);
    expect(decode(16, body)).toMatchObject({ flags: constants.O_RDWR | constants.O_APPEND });
    body.writeUInt32LE(1 << 1, 20);
    expect(decode(16, body)).toMatchObject({ flags: constants.O_RDWR | constants.O_APPEND | constants.O_DIRECT });
  });

  it("takes a negative offset of lseek, which is a program's own", () => {
    const body = Buffer.alloc(24);
    body.writeBigInt64LE(-1n, 8);
    body.writeUInt32LE(3, 16);
    expect(decode(46, body)).toEqual({ handle: 0n, offset: -1n, whence: 3 });
  });
});

describe('replies', () => {
  it('puts the fields of fuse_entry_out where the kernel reads them', () => {
    const { sys, written } = capture();
    const reply = new ReplyWriter(sys, 3);
    reply.begin();
    reply.entry(entry);
    expect(reply.send(42, 0x8000_0000)).toBe(144);
    const [bytes = Buffer.alloc(0)] = written;
    expect(bytes.readUInt32LE(0)).toBe(144);
    expect(bytes.readInt32LE(4)).toBe(0);
    expect(bytes.readBigUInt64LE(8)).toBe(0x8000_0000_0000_002an);
    const out = bytes.subarray(16);
    expect(out.readBigUInt64LE(0)).toBe(entry.attributes.ino);
    expect(out.readBigUInt64LE(8)).toBe(7n);
    expect([out.readBigUInt64LE(16), out.readUInt32LE(32)]).toEqual([1n, 500_000_000]);
    expect([out.readBigUInt64LE(24), out.readUInt32LE(36)]).toEqual([60n, 0]);
    const attr = out.subarray(40);
    expect(attr.readBigUInt64LE(8)).toBe(2n ** 40n);
    expect([attr.readBigInt64LE(24), attr.readUInt32LE(48)]).toEqual([1_500_000_000n, 1]);
    // One nanosecond before 1970: -1 s + 999,999,999 ns.
    expect([attr.readBigInt64LE(32), attr.readUInt32LE(52)]).toEqual([-1n, 999_999_999]);
    expect([60, 64, 68, 72, 80].map((at) => attr.readUInt32LE(at))).toEqual([0o100640, 3, 1000, 1001, 4096]);
  });

  it('answers the length or ERANGE to a GETXATTR that has no room', () => {
    const { sys, written } = capture();
    const reply = new ReplyWriter(sys, 3);
    const getxattr = OPCODES[22];
    const value = Buffer.from('12345');
    reply.begin();
    getxattr?.encode?.(reply, value, { sizeMax: 0, name: 'user.a' });
    reply.send(1, 0);
    expect(written[0]?.subarray(16)).toEqual(Buffer.from([5, 0, 0, 0, 0, 0, 0, 0]));
    expect(() => getxattr?.encode?.(reply, value, { sizeMax: 4, name: 'user.a' })).toThrow(
      expect.objectContaining({ errno: Errno.ERANGE }),
    );
  });

  it('sends small and large data whole, and never more than was asked for', () => {
    for (const bytes of [0, 1, 16_384, 16_385, 1 << 20]) {
      const { sys, written } = capture();
      const reply = new ReplyWriter(sys, 3);
      const data = Buffer.alloc(bytes + 10, 7);
      reply.begin();
      OPCODES[15]?.encode?.(reply, data, { handle: 0n, offset: 0n, size: bytes, flags: 0 });
      expect(reply.send(1, 0)).toBe(16 + bytes);
      expect(written[0]?.readUInt32LE(0)).toBe(16 + bytes);
      expect(written[0]?.subarray(16).equals(data.subarray(0, bytes))).toBe(true);
    }
  });
});

describe('listings', () => {
  it('holds whole, aligned records within the size asked for', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2048 }),
        fc.boolean(),
        fc.array(fc.string({ minLength: 1, maxLength: 255, unit: 'binary-ascii' }), { maxLength: 40 }),
        (size, plus, names) => {
          const listing = new Listing(size, plus);
          const taken = names.filter((name, i) =>
            listing.accept({ name, ino: BigInt(i + 2), type: 8, cookie: BigInt(i + 1), ...(plus && { entry }) }),
          );
          const { bytes } = listing;
          expect(bytes.length).toBeLessThanOrEqual(size);
          const seen: string[] = [];
          for (let at = 0; at < bytes.length;) {
            const dirent = at + (plus ? 128 : 0);
            const length = bytes.readUInt32LE(dirent + 16);
            seen.push(bytes.toString('latin1', dirent + 24, dirent + 24 + length));
            at = dirent + ((24 + length + 7) & ~7);
          }
          expect(seen).toEqual(taken);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('counts no lookup for . and .., which the kernel never forgets', () => {
    const listing = new Listing(4096, true);
    for (const name of ['.', '..', 'a']) listing.accept({ name, ino: 5n, type: 4, cookie: 1n, entry });
    expect(listing.looked).toEqual([entry.attributes.ino]);
    expect(listing.bytes.readBigUInt64LE(0)).toBe(0n);
  });
});
