/**
 * JSON with 64-bit integers. Snapshot ids of other writers use all 63 bits, which JSON.parse would round: integers beyond 2^53
 * are read as bigint here, and bigints are written as plain numbers.
 */
interface ReviverContext {
  /** The text of a primitive value (ECMAScript proposal-json-parse-with-source, in V8 since 11.4). */
  readonly source?: string;
}

const json = JSON as typeof JSON & { rawJSON(text: string): unknown }; // not in TypeScript's library yet

/** Throws SyntaxError. */
export function parseJson(text: string): unknown {
  return JSON.parse(text, (_key: string, value: unknown, context?: ReviverContext) => {
    if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
    const source = context?.source ?? '';
    return /^-?\d+$/.test(source) ? BigInt(source) : value;
  }) as unknown;
}

export function stringifyJson(value: unknown): string {
  return JSON.stringify(value, (_key: string, item: unknown) =>
    typeof item === 'bigint' ? json.rawJSON(item.toString()) : item,
  );
}
