/**
 * A set of names by their 64-bit hash, for listings of a million entries: 16 to 32 bytes a name where a Set of strings takes 100. Two
 * different names are taken for one with a probability of 3 in 10^8 for a whole listing of a million.
 */
const FIRST_SLOTS = 64;

export class NameSet {
  #low = new Uint32Array(FIRST_SLOTS);
  #high = new Uint32Array(FIRST_SLOTS);
  #count = 0;

  /** False when the name was there already. */
  add(name: string): boolean {
    // FNV-1a twice, with other bases; 0 marks a free slot.
    let low = 0x811c9dc5;
    let high = 0x9747b28c;
    for (let i = 0; i < name.length; i++) {
      const byte = name.charCodeAt(i);
      low = Math.imul(low ^ byte, 0x01000193);
      high = Math.imul(high ^ byte ^ (low >>> 16), 0x85ebca6b);
    }
    high = (high ^ (high >>> 13)) | 1;
    if (!this.#insert(low >>> 0, high >>> 0)) return false;
    this.#count++;
    if (this.#count * 2 > this.#low.length) this.#grow();
    return true;
  }

  clear(): void {
    this.#low = new Uint32Array(FIRST_SLOTS);
    this.#high = new Uint32Array(FIRST_SLOTS);
    this.#count = 0;
  }

  #insert(low: number, high: number): boolean {
    const mask = this.#low.length - 1;
    for (let slot = low & mask; ; slot = (slot + 1) & mask) {
      if (this.#high[slot] === 0) {
        this.#low[slot] = low;
        this.#high[slot] = high;
        return true;
      }
      if (this.#low[slot] === low && this.#high[slot] === high) return false;
    }
  }

  #grow(): void {
    const [low, high] = [this.#low, this.#high];
    this.#low = new Uint32Array(low.length * 2);
    this.#high = new Uint32Array(high.length * 2);
    for (let slot = 0; slot < low.length; slot++) {
      const tag = high[slot] ?? 0;
      if (tag !== 0) this.#insert(low[slot] ?? 0, tag);
    }
  }
}
