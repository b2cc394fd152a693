/**
 * The memory of a module is bounded in its own bytes: the section that declares it gets a maximum before the module is compiled, because an
 * engine has no other bound for a memory that a module makes itself (WebAssembly Core Specification 2.0, sections 5.5 and 5.3.7).
 *
 *   module    "\0asm", u32 version 1, sections
 *   section   u8 id, LEB128 bytes, content; id 5: memories
 *   memories  LEB128 count; each: flags (bit 0: has a maximum, bit 1: shared, bit 2: 64-bit), LEB128 minimum[, LEB128 maximum] in pages
 */
import { PenstockError } from '../../../lib/errors.ts';

export const PAGE_BYTES = 65_536;
const HEADER = Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
const MEMORY_SECTION = 5;

/** The module with a memory of at most so many bytes. Throws `config`. */
export function withMemoryMax(bytes: Buffer, bytesMax: number): Buffer {
  if (!bytes.subarray(0, HEADER.length).equals(HEADER)) {
    throw new PenstockError('config', 'is no WebAssembly module (a core module, not a component)');
  }
  for (let at = HEADER.length; at < bytes.length;) {
    const size = leb128(bytes, at + 1);
    const end = size.end + size.value;
    if (bytes[at] === MEMORY_SECTION) {
      const section = memorySection(bytes.subarray(size.end, end), Math.floor(bytesMax / PAGE_BYTES));
      return Buffer.concat([bytes.subarray(0, at), section, bytes.subarray(end)]);
    }
    at = end;
  }
  throw new PenstockError('config', 'has no memory of its own');
}

function memorySection(content: Buffer, pagesMax: number): Buffer {
  const count = leb128(content, 0);
  const flags = content[count.end] ?? 0;
  if (count.value !== 1 || flags > 1) {
    throw new PenstockError('config', 'has another memory than one of 32 bits that is not shared');
  }
  const least = leb128(content, count.end + 1);
  const most = flags === 1 ? leb128(content, least.end).value : pagesMax;
  if (least.value > pagesMax) {
    const needed = least.value * PAGE_BYTES;
    throw new PenstockError(
      'config',
      `begins with ${needed} bytes of memory, and \`memory\` is ${pagesMax * PAGE_BYTES}`,
    );
  }
  const memories = [1, 1, ...toLeb128(least.value), ...toLeb128(Math.min(most, pagesMax))];
  return Buffer.from([MEMORY_SECTION, ...toLeb128(memories.length), ...memories]);
}

/** An unsigned number of 32 bits. Throws `config` when it is cut off or longer. */
function leb128(bytes: Buffer, start: number): { readonly value: number; readonly end: number } {
  let value = 0;
  for (let index = 0; index < 5; index += 1) {
    const byte = bytes[start + index];
    if (byte === undefined) break;
    value += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) return { value, end: start + index + 1 };
  }
  throw new PenstockError('config', 'is a damaged WebAssembly module');
}

function toLeb128(value: number): number[] {
  const bytes = [];
  for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80);
  return [...bytes, value];
}
