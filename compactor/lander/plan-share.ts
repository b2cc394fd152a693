/** Which partitions of a dataset a lander takes and gives up, so that all of them have the same number, more or less one. */

export interface ShareChange {
  readonly take: readonly number[];
  readonly give: readonly number[];
}

/**
 * `members`: the landers that live, in an order that all of them agree on. `holders`: by partition, the one that has it; what is held by
 * nobody who lives is free.
 *
 * Each decides for itself and keeps what it has: a lander that is new waits until the others have given up what is too much. With one view
 * of who lives the shares add up to all partitions, and nothing is taken that its holder may keep.
 */
export function planShare(
  id: string,
  members: readonly string[],
  holders: readonly (string | undefined)[],
): ShareChange {
  const rank = members.indexOf(id);
  const [least, more] = [Math.floor(holders.length / members.length), holders.length % members.length];
  const quota = rank < 0 ? 0 : least + (rank < more ? 1 : 0);
  const held: number[] = [];
  const free: number[] = [];
  for (const [partition, holder] of holders.entries()) {
    if (holder === id) held.push(partition);
    else if (holder === undefined || !members.includes(holder)) free.push(partition);
  }
  // Landers that start together reach for different ones.
  const from = free.length === 0 ? 0 : (rank * quota) % free.length;
  const wanted = [...free.slice(from), ...free.slice(0, from)];
  return { take: wanted.slice(0, Math.max(0, quota - held.length)), give: held.slice(quota) };
}
