/**
 * The thread of a module, which may hang or trap: it is ended from outside, and another one started. It also looks at what the module gave,
 * so that the agent's own thread need not.
 */
import { isUtf8 } from 'node:buffer';
import { parentPort, workerData } from 'node:worker_threads';
import { describeError, PenstockError } from '../../../lib/errors.ts';
import { ANOTHER_VALUE, decodeOutput } from './batch-codec.ts';
import { Guest } from './guest.ts';

export interface ThreadData {
  readonly module: WebAssembly.Module;
  /** JSON; null: none is given. */
  readonly config: string | null;
  readonly stateBytesMax: number;
}

export interface Call {
  /** As `encodeInput` makes it, of `count` readings; null: only start. */
  readonly input: Uint8Array | null;
  readonly count: number;
  /** undefined: go on. Else with a new instance, that has this state (base64), or none. */
  readonly state: string | null | undefined;
}

export type Result =
  | {
      readonly output: Uint8Array;
      /** Values that are none, by the place of their record, with the reason. */
      readonly refused: ReadonlyMap<number, string>;
      /** base64; null: the module keeps none. */
      readonly state: string | null;
    }
  | { readonly failed: string };

const { module, config, stateBytesMax } = workerData as ThreadData; // what WasmModule starts threads with
let guest: Guest | undefined;

function answer({ input, count, state }: Call): Result {
  try {
    if (state !== undefined || guest === undefined) {
      guest = Guest.start(module, config, typeof state === 'string' ? Buffer.from(state, 'base64') : null);
    }
    const output = input === null ? Buffer.alloc(0) : guest.process(input);
    const refused = new Map<number, string>();
    decodeOutput(output, count).forEach(({ kind, text }, place) => {
      const reason = kind === ANOTHER_VALUE ? refusalOf(text) : null;
      if (reason !== null) refused.set(place, reason);
    });
    return { output, refused, state: guest.save(stateBytesMax)?.toString('base64') ?? null };
  } catch (error) {
    guest = undefined;
    return { failed: error instanceof PenstockError ? error.message : `the module trapped: ${describeError(error)}` };
  }
}

function refusalOf(text: Buffer): string | null {
  if (!isUtf8(text)) return 'the value that the module gave is no UTF-8';
  try {
    const value: unknown = JSON.parse(text.toString('utf8'));
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    return isObject ? null : 'the value that the module gave is no JSON object';
  } catch (error) {
    return `the value that the module gave is no JSON: ${describeError(error)}`;
  }
}

// The first message says that it can be called: its own start must not count as time of the module.
parentPort?.postMessage(null);
parentPort?.on('message', (call: Call) => {
  const result = answer(call);
  parentPort?.postMessage(result, 'failed' in result ? [] : [result.output.buffer as ArrayBuffer]); // its own, see Guest
});
