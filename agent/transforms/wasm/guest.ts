/**
 * An instance of a module, in the thread: what is called, and that what it answers lies in its memory. docs/WASM.md is the contract.
 *
 * Failure: whatever a call throws ends the instance: its memory may be in any state.
 */
import { PenstockError } from '../../../lib/errors.ts';

export const ABI = 1;
export const EXPORTS = {
  memory: 'memory',
  abi: 'penstock_abi',
  alloc: 'penstock_alloc',
  process: 'penstock_process',
  init: 'penstock_init',
  save: 'penstock_save',
  restore: 'penstock_restore',
} as const;

export class Guest {
  readonly #exports: WebAssembly.Exports;
  readonly #memory: WebAssembly.Memory;

  private constructor(exports: WebAssembly.Exports) {
    this.#exports = exports;
    this.#memory = exports[EXPORTS.memory] as WebAssembly.Memory; // checked when the module was loaded
  }

  /** `config` is JSON, `state` what `save` gave; a module may leave a state that it does not know. */
  static start(module: WebAssembly.Module, config: string | null, state: Uint8Array | null): Guest {
    const guest = Guest.#initialised(module, config);
    if (state === null) return guest;
    try {
      if (Number(guest.#call(EXPORTS.restore, ...guest.#put(state))) === 0) return guest;
    } catch {
      // As one that returns an error; its memory is not to be trusted either way.
    }
    return Guest.#initialised(module, config);
  }

  static #initialised(module: WebAssembly.Module, config: string | null): Guest {
    const guest = new Guest(new WebAssembly.Instance(module, {}).exports);
    const abi = Number(guest.#call(EXPORTS.abi));
    if (abi !== ABI) throw wrong(`is of ABI ${abi}, this agent has ${ABI}`);
    if (config === null) return guest;
    const refusal = guest.#take(EXPORTS.init, ...guest.#put(Buffer.from(config)));
    if (refusal.length > 0) throw wrong(`refuses its configuration: ${refusal.toString('utf8')}`);
    return guest;
  }

  /** A copy of what it gave, in a buffer of its own. */
  process(input: Uint8Array): Buffer {
    return this.#take(EXPORTS.process, ...this.#put(input));
  }

  /** null: the module keeps none. Throws `too-large`. */
  save(bytesMax: number): Buffer | null {
    if (this.#exports[EXPORTS.save] === undefined) return null;
    const state = this.#take(EXPORTS.save);
    if (state.length > bytesMax) {
      throw new PenstockError(
        'too-large',
        `the state of the module has ${state.length} bytes, \`state\` is ${bytesMax}`,
      );
    }
    return state;
  }

  #put(bytes: Uint8Array): [at: number, length: number] {
    const at = Number(this.#call(EXPORTS.alloc, bytes.length)) >>> 0;
    if (at + bytes.length > this.#memory.buffer.byteLength) throw outside(EXPORTS.alloc, at, bytes.length);
    new Uint8Array(this.#memory.buffer, at, bytes.length).set(bytes);
    return [at, bytes.length];
  }

  /** Calls what returns (address << 32 | length), and copies what is there. */
  #take(name: string, ...args: readonly number[]): Buffer {
    const packed = this.#call(name, ...args);
    if (typeof packed !== 'bigint') throw wrong(`has a ${name} that returns no i64`);
    const at = Number(BigInt.asUintN(32, packed >> 32n));
    const length = Number(BigInt.asUintN(32, packed));
    // Its memory may have moved during the call.
    if (at + length > this.#memory.buffer.byteLength) throw outside(name, at, length);
    return Buffer.from(new Uint8Array(this.#memory.buffer, at, length).slice().buffer);
  }

  #call(name: string, ...args: readonly number[]): unknown {
    const called = this.#exports[name];
    if (typeof called !== 'function') throw wrong(`has no function ${name}`);
    return (called as (...args: readonly number[]) => unknown)(...args); // a function of the module, which returns what it likes
  }
}

function wrong(what: string): PenstockError {
  return new PenstockError('config', `the module ${what}`);
}

function outside(name: string, at: number, length: number): PenstockError {
  return new PenstockError(
    'corrupt',
    `${name} of the module gives ${length} bytes at ${at}, which is outside its memory`,
  );
}
