const LASTING = ['b', 'm', 't', 'x'];

/**
 * The cursor of an entry (sd_journal_get_cursor(3)), as far as it says which entry that is and when it was written.
 *
 *   s=FILE SET;i=NUMBER IN IT;b=BOOT;m=MONOTONIC TIME;t=REALTIME;x=HASH OF THE FIELDS        numbers are hexadecimal, times microseconds
 *
 * When the journal moves from /run to /var at boot, an entry gets another `s` and `i`: the rest is what stays. Within one file set the number tells apart
 * the lines of one write, which have the same times, and where they are equal the same hash.
 */
export function isSameEntry(one: string, other: string): boolean {
  const [first, second] = [partsOf(one), partsOf(other)];
  const keys = first.get('s') === second.get('s') ? ['i', ...LASTING] : LASTING;
  return keys.every((key) => first.get(key) === second.get(key));
}

/** When it was written, microseconds since the epoch; NaN where the cursor does not say so. */
export function realtimeUsOf(cursor: string): number {
  return hexOf(partsOf(cursor).get('t'));
}

/** How many entries of the whole journal lie between two; null where they are not numbered together. */
export function entriesBetween(before: string, after: string): number | null {
  const [first, second] = [partsOf(before), partsOf(after)];
  const count = hexOf(second.get('i')) - hexOf(first.get('i')) - 1;
  return first.get('s') === second.get('s') && count >= 0 ? count : null;
}

function partsOf(cursor: string): ReadonlyMap<string, string> {
  return new Map(cursor.split(';').map((part) => [part.slice(0, 1), part.slice(2)]));
}

function hexOf(digits: string | undefined): number {
  return Number.parseInt(digits ?? '', 16);
}
