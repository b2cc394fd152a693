/** What a history of programs on several mounts consists of (client.py writes it), and what can be wrong with it. */

/** An operation of one program: result null is done, EEXIST and ENOENT are answers, `error:…` leaves open what it did. */
export interface Operation {
  readonly mount: number;
  readonly client: string;
  readonly kind: string;
  readonly args: readonly string[];
  readonly result: unknown;
  /** The machine's monotonic clock, ns. */
  readonly start: number;
  readonly end: number;
}

export interface State {
  /** Inode numbers; 0: no such name. */
  readonly names: Readonly<Record<string, number>>;
  readonly listed: readonly string[];
  readonly files: Readonly<Record<string, string>>;
  readonly counters: Readonly<Record<string, number>>;
  readonly log: readonly string[];
}

/** What the clients were told is durable. */
export interface Durable {
  readonly append: readonly string[];
  readonly sync: number;
  readonly fcntl: number;
  readonly flock: number;
}

export function failed(operation: Operation): boolean {
  return typeof operation.result === 'string' && operation.result.startsWith('error:');
}

export function describe(operation: Operation): string {
  const { client, kind, args, result, start, end } = operation;
  return `${client} ${kind}(${args.join(', ')}) = ${JSON.stringify(result)} [${start / 1e6} .. ${end / 1e6} ms]`;
}
