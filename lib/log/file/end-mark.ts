/**
 * The end mark: how far a partition is durable. 64 bytes in the file `end`, overwritten in place.
 *
 *    at  bytes  field
 *     0      4  magic "PSE1"
 *     4      4  crc            CRC32C of the 56 bytes behind it
 *     8      8  endOffset      the next offset
 *    16      8  segmentBase    the segment that is appended to
 *    24      8  position       the byte in it behind the last durable batch
 *    32     16  bootId         of the boot under which this was written
 *    48     16  zero
 *
 * Invariants
 * - It is published after fdatasync of the bytes it covers, and before the append is acknowledged; readers hand out nothing behind
 *   it. So no reader ever sees a record that a power cut could take back.
 * - It is itself made durable only now and then: after a power cut it may be older than the data, never ahead of it. The boot id
 *   tells: a mark of another boot is a lower bound, and the holder of the append lock looks for more behind it.
 * Failure: a reader that meets a write in progress reads again; a mark that stays invalid was torn by a power cut and is treated
 * as lost, which costs a scan of the last segment.
 */
import { crc32c } from '@node-rs/crc32';
import { closeSync, constants, fdatasync, openSync, readSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { fromSystemError } from '../../errors.ts';
import { systemBoot } from '../../boot-time.ts';

const MARK_BYTES = 64;
const MAGIC = 0x50534531;
const CRC_FROM = 8;
/** A write of 64 bytes takes about a microsecond: a mark that is invalid this often in a row is not being written. */
const READ_ATTEMPTS = 200;

const fdatasyncAsync = promisify(fdatasync);

export interface EndMark {
  readonly endOffset: bigint;
  readonly segmentBase: bigint;
  readonly position: number;
}

export interface StoredEndMark extends EndMark {
  readonly isOfThisBoot: boolean;
}

export function encodeEndMark(mark: EndMark): Buffer {
  const bytes = Buffer.alloc(MARK_BYTES);
  bytes.writeUInt32BE(MAGIC, 0);
  bytes.writeBigInt64BE(mark.endOffset, 8);
  bytes.writeBigInt64BE(mark.segmentBase, 16);
  bytes.writeBigInt64BE(BigInt(mark.position), 24);
  systemBoot.id.copy(bytes, 32);
  bytes.writeUInt32BE(crc32c(bytes.subarray(CRC_FROM)), 4);
  return bytes;
}

export class EndFile {
  readonly #path: string;
  readonly #fd: number;
  readonly #buffer = Buffer.alloc(MARK_BYTES);

  constructor(path: string) {
    this.#path = path;
    try {
      this.#fd = openSync(path, constants.O_RDWR);
    } catch (error) {
      throw fromSystemError(error, `cannot open ${path}`);
    }
  }

  /** Undefined: damaged, see Failure. About 1 us. */
  read(): StoredEndMark | undefined {
    const bytes = this.#buffer;
    for (let attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
      if (readSync(this.#fd, bytes, 0, MARK_BYTES, 0) !== MARK_BYTES) continue;
      if (bytes.readUInt32BE(0) !== MAGIC || bytes.readUInt32BE(4) !== crc32c(bytes.subarray(CRC_FROM))) continue;
      return {
        endOffset: bytes.readBigInt64BE(8),
        segmentBase: bytes.readBigInt64BE(16),
        position: Number(bytes.readBigInt64BE(24)),
        isOfThisBoot: bytes.subarray(32, 48).equals(systemBoot.id),
      };
    }
    return undefined;
  }

  /** Only the holder of the append lock calls it, after fdatasync of what the mark covers. */
  publish(mark: EndMark): void {
    try {
      writeSync(this.#fd, encodeEndMark(mark), 0, MARK_BYTES, 0);
    } catch (error) {
      throw fromSystemError(error, `cannot write ${this.#path}`);
    }
  }

  async sync(): Promise<void> {
    await fdatasyncAsync(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}
