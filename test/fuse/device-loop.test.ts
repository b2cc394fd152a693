import { openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { Callers } from '../../fs-gateway/callers/callers.ts';
import { DeviceLoop } from '../../fs-gateway/fuse/device-loop.ts';
import { Metrics } from '../../fs-gateway/fuse/metrics.ts';
import { FIRST_READY, type Native } from '../../fs-gateway/fuse/native.ts';
import { INTERRUPT, OPCODES } from '../../fs-gateway/fuse/opcodes.ts';
import { IN_HEADER_BYTES, RELEASE_FLOCK_UNLOCK } from '../../fs-gateway/fuse/protocol.ts';
import { Errno, type Operations } from '../../fs-gateway/vfs/operations.ts';
import { memoryFs } from '../support/toy-memory.ts';

interface Reply {
  readonly unique: bigint;
  readonly error: number;
}

/**
 * Serves the given requests from a device in memory, then ENODEV; the replies in the order they were written. `onEmpty`: the device stays for as
 * long as the loop looks, which calls this each time, and ends when the loop leaves the waiting to another thread.
 */
async function serve(
  requests: readonly Buffer[],
  operations: Operations,
  onEmpty?: () => void,
): Promise<{ replies: Reply[]; log: string[]; repliesWhenIdle: number }> {
  const replies: Reply[] = [];
  const log: string[] = [];
  const queue = [...requests];
  let ending = onEmpty === undefined;
  let repliesWhenIdle = 0;
  const poll = (): number => {
    if (ending || queue.length > 0) return FIRST_READY;
    onEmpty?.();
    return 0;
  };
  const pollIdle = (): Promise<number> => {
    ending = true;
    repliesWhenIdle = replies.length;
    return Promise.resolve(FIRST_READY);
  };
  const unused = (): never => {
    throw new Error('not a part of this test');
  };
  const take = (head: Buffer, bytes: number): number => {
    expect(head.readUInt32LE(0)).toBe(bytes);
    replies.push({ unique: head.readBigUInt64LE(8), error: head.readInt32LE(4) });
    return bytes;
  };
  const sys: Native = {
    mount: unused,
    umount2: unused,
    socketPair: unused,
    receiveFd: unused,
    connectUnix: unused,
    sendFd: unused,
    backingOpen: () => 0,
    backingClose: () => 0,
    testReadLease: () => 0,
    omitAccessTimes: () => 0,
    seek: () => 0,
    hasEnded: unused,
    uvBackendFd: () => -1,
    eventfd: () => openSync('/dev/null', 'r'),
    setNonBlocking: () => 0,
    pollPair: () => ({ wait: poll, waitAsync: pollIdle }),
    read(_fd, into) {
      const next = queue.shift();
      if (next === undefined) return loop.inFlight > 0 || !ending ? -Errno.EAGAIN : -Errno.ENODEV;
      return next.copy(into);
    },
    write: (_fd, from, bytes) => take(from, bytes),
    writeBoth: (_fd, head, headBytes, body) => take(head, headBytes + body.length),
  };
  const callers = new Callers({ device: undefined, passesThrough: () => false });
  const loop = new DeviceLoop(sys, {
    fd: 3,
    session: 'test',
    operations,
    setxattrExtended: true,
    metrics: new Metrics(),
    callers,
    log: (message) => log.push(message),
  });
  expect(await loop.run()).toBe('unmounted');
  callers.close();
  return { replies, log, repliesWhenIdle };
}

function request(unique: number, opcode: number, body: Uint8Array, ino = 1n): Buffer {
  const header = Buffer.alloc(IN_HEADER_BYTES);
  header.writeUInt32LE(IN_HEADER_BYTES + body.length, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeBigUInt64LE(BigInt(unique), 8);
  header.writeBigUInt64LE(ino, 16);
  return Buffer.concat([header, body]);
}

const silent = new Set([INTERRUPT, ...OPCODES.flatMap((opcode, n) => (opcode?.silent === true ? [n] : []))]);

describe('the device loop', () => {
  it('answers every request exactly once, whatever its bytes are, and never ends on one', async () => {
    const hostile = fc.tuple(fc.integer({ min: 0, max: 70 }), fc.uint8Array({ maxLength: 200 }));
    await fc.assert(
      fc.asyncProperty(fc.array(hostile, { maxLength: 50 }), async (list) => {
        const requests = list.map(([opcode, body], i) => request((i + 1) * 2, opcode, body));
        const { replies } = await serve(requests, memoryFs({ asynchronousCreate: true }));
        const expected = list.flatMap(([opcode], i) => (silent.has(opcode) ? [] : [BigInt((i + 1) * 2)]));
        expect(replies.map(({ unique }) => unique).sort((a, b) => Number(a - b))).toEqual(expected);
        for (const { error } of replies) expect(error).toBeLessThanOrEqual(0);
      }),
      { numRuns: 300 },
    );
  });

  it('answers EIO and logs when an operation throws, rejects, or returns what cannot be encoded', async () => {
    const bug = new TypeError('a bug');
    const operations: Operations = {
      ...memoryFs(),
      unlink: () => {
        throw bug;
      },
      rmdir: () => Promise.reject(bug),
      readlink: () => Promise.resolve('no buffer' as unknown as Buffer), // a bug that the types would have caught
    };
    const name = Buffer.from('name\0');
    const { replies, log } = await serve([request(2, 10, name), request(4, 11, name), request(6, 5, name)], operations);
    expect(replies.map(({ error }) => error)).toEqual([-Errno.EIO, -Errno.EIO, -Errno.EIO]);
    expect(log.map((line) => line.split(' ')[0])).toEqual(['UNLINK', 'RMDIR', 'READLINK']);
  });

  it('serves a RELEASE behind the requests that programs wait for, and all of them before it ends', async () => {
    const [lookup, release] = [1, 18];
    const name = Buffer.from('name\0');
    const { replies } = await serve(
      [request(2, release, Buffer.alloc(24)), request(4, lookup, name), request(6, release, Buffer.alloc(24))],
      memoryFs(),
    );
    expect(replies.map(({ unique }) => unique)).toEqual([4n, 2n, 6n]);
  });

  it('serves a RELEASE that gives back a lock in its turn: who closed the file may take the lock again at once', async () => {
    const [lookup, release] = [1, 18];
    const unlocks = Buffer.alloc(24);
    unlocks.writeUInt32LE(RELEASE_FLOCK_UNLOCK, 12);
    const { replies } = await serve(
      [request(2, release, unlocks), request(4, lookup, Buffer.from('name\0'))],
      memoryFs(),
    );
    expect(replies.map(({ unique }) => unique)).toEqual([2n, 4n]);
  });

  it('serves a RELEASE in its turn whose open file has locks of which the kernel says nothing', async () => {
    const [lookup, release] = [1, 18];
    const [plain, locked] = [Buffer.alloc(24), Buffer.alloc(24)];
    locked.writeBigUInt64LE(7n, 0);
    const { replies } = await serve(
      [request(2, release, plain), request(4, release, locked), request(6, lookup, Buffer.from('name\0'))],
      { ...memoryFs(), hasLocks: (_ino, handle) => handle === 7n },
    );
    expect(replies.map(({ unique }) => unique)).toEqual([4n, 6n, 2n]);
  });

  it('serves a RELEASE before it waits for long, though the process stood still behind reading it', async () => {
    const STALL_MS = 150;
    const stall = (): unknown => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, STALL_MS);
    const { repliesWhenIdle } = await serve([request(2, 18, Buffer.alloc(24))], memoryFs(), stall);
    expect(repliesWhenIdle).toBe(1);
  });

  it('aborts the signal of a waiting operation at INTERRUPT, also of a resent request', async () => {
    const operations: Operations = {
      ...memoryFs(),
      rmdir: (caller) =>
        new Promise((_resolve, reject) => {
          caller.signal.addEventListener('abort', () => reject(new TypeError('aborted')));
        }),
    };
    const resent = request(8, 11, Buffer.from('name\0'));
    resent.writeUInt32LE(0x8000_0000, 12);
    const interrupt = Buffer.alloc(8);
    interrupt.writeUInt32LE(8, 0);
    const { replies } = await serve([resent, request(9, INTERRUPT, interrupt)], operations);
    expect(replies).toEqual([{ unique: 0x8000_0000_0000_0008n, error: -Errno.EIO }]);
  });
});
