/**
 * The locks of one file over all mounts: who holds which range, and who waits for one, in the order they came.
 *
 * Record {v}k <ino>, absent while there are none:
 *   varint count, then for each lock held:   u8 3 posix (and OFD) | 4 flock, u8 1 read | 2 write, i64 owner, i64 start, i64 end,
 *                                            i64 handle, varint pid, latin1 mount, varint session
 *                                            (1 posix | 2 flock: of an earlier form, without the handle)
 *   varint count, then for each that waits:  the same, varint ticket
 *   CRC32C
 * `owner` is the kernel's number, unique within a mount; `handle` the open file through which the range was set last; `mount` is one life of a mount over all its workers, `session` the one in which
 * its worker last confirmed the lock.
 *
 * Invariants: held locks of different owners conflict nowhere. Whoever takes locks away grants what others wait for in the same commit
 * (`promote`), so that a wait is over when the record says so, whether or not the waiter has heard.
 * Limits: LOCKS_MAX locks of a file, well within the engine's bound on a value.
 */
import { ByteReader, ByteWriter } from './bytes.ts';

export const LOCKS_MAX = 4096;

export interface Lock {
  readonly kind: 'posix' | 'flock';
  readonly type: 'read' | 'write';
  readonly owner: bigint;
  readonly start: bigint;
  /** Inclusive. */
  readonly end: bigint;
  readonly handle: bigint;
  readonly pid: number;
  readonly mount: string;
  readonly session: number;
}

export interface Waiting extends Lock {
  readonly ticket: number;
}

export interface LockRecord {
  readonly held: readonly Lock[];
  readonly waiting: readonly Waiting[];
}

/** What to set: a lock, or none, of one owner over a range. */
export type Wanted = Omit<Lock, 'type'> & { readonly type: 'read' | 'write' | 'unlock' };

export const NO_LOCKS: LockRecord = { held: [], waiting: [] };

export function isOwn(a: Pick<Lock, 'mount' | 'owner' | 'kind'>, b: Pick<Lock, 'mount' | 'owner' | 'kind'>): boolean {
  return a.owner === b.owner && a.kind === b.kind && a.mount === b.mount;
}

export function isTicket(a: Waiting, b: Waiting): boolean {
  return a.mount === b.mount && a.ticket === b.ticket;
}

/** What was waited for is held. */
export function covers({ held }: LockRecord, ticket: Waiting): boolean {
  return held.some(
    (lock) => isOwn(lock, ticket) && lock.type === ticket.type && lock.start <= ticket.start && lock.end >= ticket.end,
  );
}

/** The parts of a lock that its owner does not hold, nor a stronger lock there. */
export function missingOf(lock: Lock, held: readonly Lock[]): readonly Lock[] {
  return held
    .filter((one) => isOwn(one, lock) && overlaps(one, lock) && (one.type === 'write' || lock.type === 'read'))
    .reduce<readonly Lock[]>((left, one) => setRange(left, { ...one, type: 'unlock' }), [lock]);
}

function overlaps(a: Pick<Lock, 'start' | 'end'>, b: Pick<Lock, 'start' | 'end'>): boolean {
  return a.start <= b.end && a.end >= b.start;
}

export function conflictOf(held: readonly Lock[], wanted: Wanted): Lock | undefined {
  if (wanted.type === 'unlock') return undefined;
  return held.find(
    (lock) =>
      lock.kind === wanted.kind &&
      !isOwn(lock, wanted) &&
      overlaps(lock, wanted) &&
      (lock.type === 'write' || wanted.type === 'write'),
  );
}

/** Sets the range for its owner: what it held there is replaced or cut. */
export function setRange(held: readonly Lock[], wanted: Wanted): Lock[] {
  const { type } = wanted;
  const result: Lock[] = [];
  let joined: { readonly start: bigint; readonly end: bigint } = wanted;
  for (const lock of held) {
    if (!isOwn(lock, wanted)) {
      result.push(lock);
    } else if (lock.type === type && lock.start <= joined.end + 1n && lock.end + 1n >= joined.start) {
      // Neighbours of one type are one lock, or a program that locks record after record would fill the record.
      joined = {
        start: lock.start < joined.start ? lock.start : joined.start,
        end: lock.end > joined.end ? lock.end : joined.end,
      };
    } else if (!overlaps(lock, wanted)) {
      result.push(lock);
    } else {
      if (lock.start < wanted.start) result.push({ ...lock, end: wanted.start - 1n });
      if (lock.end > wanted.end) result.push({ ...lock, start: wanted.end + 1n });
    }
  }
  if (type !== 'unlock') {
    const { kind, owner, handle, pid, mount, session } = wanted;
    result.push({ kind, type, owner, start: joined.start, end: joined.end, handle, pid, mount, session });
  }
  return result;
}

/** Grants, in the order of waiting, what conflicts with nothing any more. */
export function promote(record: LockRecord): { readonly record: LockRecord; readonly granted: readonly Waiting[] } {
  let held = record.held;
  const granted: Waiting[] = [];
  const waiting: Waiting[] = [];
  for (const one of record.waiting) {
    if (conflictOf(held, one) !== undefined) waiting.push(one);
    else {
      held = setRange(held, one);
      granted.push(one);
    }
  }
  return { record: { held, waiting }, granted };
}

/** Without what mounts hold or wait for that are gone. */
export function withoutMounts(record: LockRecord, gone: (lock: Lock) => boolean): LockRecord {
  return { held: record.held.filter((lock) => !gone(lock)), waiting: record.waiting.filter((lock) => !gone(lock)) };
}

const POSIX = 3;
const FLOCK = 4;
/** Of records of before the handle was in them. */
const OLDER_POSIX = 1;
const scratch = new ByteWriter();

function writeLock(writer: ByteWriter, lock: Lock): void {
  writer.u8(lock.kind === 'posix' ? POSIX : FLOCK).u8(lock.type === 'read' ? 1 : 2);
  writer.i64(BigInt.asIntN(64, lock.owner)).i64(lock.start).i64(lock.end);
  writer.i64(BigInt.asIntN(64, lock.handle)).varint(lock.pid).latin1(lock.mount).varint(lock.session);
}

function readLock(reader: ByteReader): Lock {
  const kind = reader.u8();
  const type = reader.u8();
  if (kind < OLDER_POSIX || kind > FLOCK || (type !== 1 && type !== 2))
    throw reader.damaged(`a lock of kind ${kind}/${type}`);
  return {
    kind: kind === POSIX || kind === OLDER_POSIX ? 'posix' : 'flock',
    type: type === 1 ? 'read' : 'write',
    owner: BigInt.asUintN(64, reader.i64()),
    start: reader.i64(),
    end: reader.i64(),
    handle: kind < POSIX ? 0n : BigInt.asUintN(64, reader.i64()),
    pid: reader.varint(),
    mount: reader.latin1(),
    session: reader.varint(),
  };
}

/** Null when there is nothing to say: the record is deleted. */
export function encodeLocks({ held, waiting }: LockRecord): Buffer | null {
  if (held.length === 0 && waiting.length === 0) return null;
  const writer = scratch.reset().varint(held.length);
  for (const lock of held) writeLock(writer, lock);
  writer.varint(waiting.length);
  for (const lock of waiting) {
    writeLock(writer, lock);
    writer.varint(lock.ticket);
  }
  return writer.finish();
}

/** Throws `corrupt`. */
export function decodeLocks(value: Buffer, ino: number): LockRecord {
  const reader = new ByteReader(value, `locks of inode ${ino}`);
  const held = Array.from({ length: countOf(reader) }, () => readLock(reader));
  const waiting = Array.from({ length: countOf(reader) }, () => ({ ...readLock(reader), ticket: reader.varint() }));
  reader.end();
  return { held, waiting };
}

function countOf(reader: ByteReader): number {
  const count = reader.varint();
  if (count > 2 * LOCKS_MAX) throw reader.damaged(`${count} locks`);
  return count;
}
