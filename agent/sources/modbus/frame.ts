/**
 * Modbus on TCP, the four requests that read ("MODBUS Messaging on TCP/IP Implementation Guide" V1.0b, section 3.1; "MODBUS Application
 * Protocol" V1.1b3, sections 4.1, 6.1 to 6.4 and 7). Integers are big-endian.
 *
 *   header     0  u16  transaction id: the answer repeats it
 *              2  u16  protocol, 0
 *              4  u16  bytes that follow: 2 to 254
 *              6  u8   unit id: the answer repeats it
 *   request    7  u8   function: 1 coils, 2 discrete inputs, 3 holding registers, 4 input registers
 *              8  u16  first address
 *             10  u16  how many
 *   answer     7  u8   function
 *              8  u8   bytes of data
 *              9       registers of 2 bytes, or bits, the first one in the lowest place
 *   exception  7  u8   function + 128
 *              8  u8   code
 */
import { PenstockError } from '../../../lib/errors.ts';
import { isBitTable, type RegisterConfig } from './config.ts';

const HEADER_BYTES = 7;
const LENGTH_MIN = 2;
const LENGTH_MAX = 254;
const EXCEPTION = 0x80;
const FUNCTIONS = { coil: 1, discrete: 2, holding: 3, input: 4 } as const;

/** Section 7 of the application protocol. */
const EXCEPTIONS: Readonly<Record<number, string>> = {
  1: 'illegal function',
  2: 'illegal data address',
  3: 'illegal data value',
  4: 'device failure',
  5: 'acknowledged, not ready yet',
  6: 'device busy',
  8: 'memory parity error',
  10: 'gateway path unavailable',
  11: 'the device behind the gateway does not answer',
};

export interface ReadRequest {
  readonly unit: number;
  readonly table: RegisterConfig['table'];
  readonly address: number;
  readonly count: number;
}

export interface Frame {
  readonly transaction: number;
  readonly unit: number;
  /** From the function on. */
  readonly pdu: Buffer;
  readonly bytes: Buffer;
}

export function encodeRead(transaction: number, { unit, table, address, count }: ReadRequest): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(transaction, 0);
  bytes.writeUInt16BE(6, 4);
  bytes.writeUInt8(unit, 6);
  bytes.writeUInt8(FUNCTIONS[table], 7);
  bytes.writeUInt16BE(address, 8);
  bytes.writeUInt16BE(count, 10);
  return bytes;
}

/** Cuts what a connection brings into frames. At most one frame is kept back. */
export class FrameCutter {
  #kept: Buffer = Buffer.alloc(0);

  /** Throws `corrupt` when what comes is no Modbus: nothing behind it can be understood. */
  push(chunk: Buffer): Frame[] {
    let bytes = this.#kept.length === 0 ? chunk : Buffer.concat([this.#kept, chunk]);
    const frames: Frame[] = [];
    while (bytes.length >= HEADER_BYTES) {
      const length = bytes.readUInt16BE(4);
      if (bytes.readUInt16BE(2) !== 0 || length < LENGTH_MIN || length > LENGTH_MAX) {
        throw new PenstockError('corrupt', `what answers there speaks no Modbus on TCP (${hex(bytes)})`);
      }
      const end = HEADER_BYTES - 1 + length;
      if (bytes.length < end) break;
      const frame = bytes.subarray(0, end);
      frames.push({
        transaction: frame.readUInt16BE(0),
        unit: frame.readUInt8(6),
        pdu: frame.subarray(7),
        bytes: frame,
      });
      bytes = bytes.subarray(end);
    }
    this.#kept = bytes;
    return frames;
  }
}

/** What a device answered: registers or bits as they came, or the code of an exception. Throws `corrupt` when it is no answer to the request. */
export function parseAnswer({ table, count }: ReadRequest, pdu: Buffer): { data: Buffer } | { exception: number } {
  const wanted = FUNCTIONS[table];
  const given = pdu.readUInt8(0);
  if (given === wanted + EXCEPTION && pdu.length === 2) return { exception: pdu.readUInt8(1) };
  if (given !== wanted) throw new PenstockError('corrupt', `it answers function ${given}, asked was ${wanted}`);
  const bytes = isBitTable(table) ? Math.ceil(count / 8) : 2 * count;
  const data = pdu.subarray(2);
  if (pdu.length < 2 || pdu.readUInt8(1) !== bytes || data.length !== bytes) {
    throw new PenstockError('corrupt', `it answers with ${data.length} bytes of data, asked was for ${bytes}`);
  }
  return { data };
}

export function exceptionText(code: number): string {
  return `${EXCEPTIONS[code] ?? 'unknown exception'} (exception ${code})`;
}

function hex(bytes: Buffer): string {
  return bytes.subarray(0, 16).toString('hex');
}
