/**
 * AssemblyScript's side of the contract in docs/WASM.md: reading a batch, and giving back what becomes of it. A module exports the two
 * functions that are exported here again (`export { penstock_abi, penstock_alloc } from './penstock'`).
 */

const NO_SENSOR: u32 = 0xffff_ffff;

/** Where the agent puts what it gives. One buffer is enough: it is read before the next call. */
let input: usize = heap.alloc(4096);
let inputBytes: u32 = 4096;

let output: usize = heap.alloc(4096);
let outputBytes: u32 = 4096;
let used: u32 = 0;

export function penstock_abi(): u32 {
  return 1;
}

export function penstock_alloc(bytes: u32): usize {
  if (bytes > inputBytes) {
    input = heap.realloc(input, bytes);
    inputBytes = bytes;
  }
  return input;
}

/** The readings of a batch, one after the other. */
export class Batch {
  /** Microseconds since the epoch. */
  eventUs: i64 = 0;
  /** '' where there is none. */
  sensor: string = '';
  /** The value: JSON text. */
  value: usize = 0;
  bytes: u32 = 0;
  index: u32 = 0;
  private count: u32;
  private done: u32 = 0;
  private at: usize;

  constructor(at: usize) {
    this.count = load<u32>(at);
    this.at = at + 4;
  }

  next(): bool {
    if (this.done == this.count) return false;
    const at = this.at;
    const sensorBytes = load<u32>(at, 8);
    const length = sensorBytes == NO_SENSOR ? 0 : sensorBytes;
    this.eventUs = load<i64>(at);
    this.sensor = String.UTF8.decodeUnsafe(at + 16, length);
    this.value = at + 16 + length;
    this.bytes = load<u32>(at, 12);
    this.at = this.value + this.bytes;
    this.index = this.done++;
    return true;
  }
}

/** The output of a call begins anew. */
export function begin(): void {
  used = 0;
}

/** What the call returns. */
export function finish(): u64 {
  return ((<u64>output) << 32) | used;
}

/** The reading goes on as it came. */
export function keep(index: u32): void {
  record(index, 0, 0);
}

/** The reading goes on with another value, of so many bytes, which the caller writes to the address that is returned. */
export function change(index: u32, bytes: u32): usize {
  return record(index, 1, bytes);
}

/** The reading goes to the quarantine. */
export function refuse(index: u32, reason: string): void {
  const bytes = String.UTF8.byteLength(reason);
  String.UTF8.encodeUnsafe(changetype<usize>(reason), reason.length, record(index, 2, bytes));
}

/** Bytes that are no record: a state, a message. Returns where they go. */
export function append(bytes: u32): usize {
  const needed = used + bytes;
  if (needed > outputBytes) {
    outputBytes = max(needed, 2 * outputBytes);
    output = heap.realloc(output, outputBytes);
  }
  const at = output + used;
  used = needed;
  return at;
}

/** A text as the whole answer of a call. */
export function answer(text: string): u64 {
  begin();
  const bytes = String.UTF8.byteLength(text);
  String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, append(bytes));
  return finish();
}

function record(index: u32, kind: u32, bytes: u32): usize {
  const at = append(12 + bytes);
  store<u32>(at, index);
  store<u32>(at, kind, 4);
  store<u32>(at, bytes, 8);
  return at + 12;
}
