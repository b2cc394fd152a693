/** What a decompressor has written so far, with a bound: grows as it is needed, not as the input says. */
const BYTES_MIN = 64 << 10;

export class GrowingOutput {
  #buffer: Buffer;
  #bytes = 0;
  readonly #bytesMax: number;

  constructor(bytesExpected: number, bytesMax: number) {
    this.#bytesMax = bytesMax;
    this.#buffer = Buffer.allocUnsafe(Math.min(bytesMax, Math.max(BYTES_MIN, bytesExpected)));
  }

  get bytes(): number {
    return this.#bytes;
  }

  append(input: Buffer, start: number, end: number): void {
    this.#reserve(end - start);
    input.copy(this.#buffer, this.#bytes, start, end);
    this.#bytes += end - start;
  }

  /** Appends `length` bytes from `distance` before the end, which may reach into what it appends. Throws when there are not as many. */
  repeat(distance: number, length: number): void {
    if (distance === 0 || distance > this.#bytes) throw new Error('a copy from before the beginning');
    this.#reserve(length);
    const buffer = this.#buffer;
    const from = this.#bytes - distance;
    if (distance >= length) buffer.copyWithin(this.#bytes, from, from + length);
    else for (let n = 0; n < length; n++) buffer[this.#bytes + n] = buffer[from + n] ?? 0;
    this.#bytes += length;
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#bytes);
  }

  #reserve(more: number): void {
    const needed = this.#bytes + more;
    if (needed <= this.#buffer.length) return;
    if (needed > this.#bytesMax) throw new Error(`more than ${this.#bytesMax} bytes`);
    const grown = Buffer.allocUnsafe(Math.min(this.#bytesMax, Math.max(needed, this.#buffer.length * 2)));
    this.#buffer.copy(grown, 0, 0, this.#bytes);
    this.#buffer = grown;
  }
}
