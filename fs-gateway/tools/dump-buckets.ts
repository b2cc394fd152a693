/** What a dump does with each bucket of a volume, by its name behind the hash tag (lib/volume/keys.ts, lib/table/keys.ts, lib/lake/). */

/** Locks, leases, requests of a mount, what mounts report, notes for a gc that runs: no dump has them. */
export function isOfTheMoment(name: string): boolean {
  return name.startsWith('q:') || name === 'k' || name === 'p' || name === 'r' || name === 'leases';
}

/** A bucket holds numbers or values, never both. */
export function holdsNumbers(name: string): boolean {
  return name === 'n' || name === 'w' || name.startsWith('t:') || name.startsWith('stats:');
}
