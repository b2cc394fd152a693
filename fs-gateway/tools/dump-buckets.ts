/** What a dump does with each bucket of a volume, by its name behind the hash tag (lib/volume/keys.ts, lib/table/keys.ts, lib/lake/). */

export type BucketKind =
  /** Changes of its records are announced on the feed. */
  | 'announced'
  /** No feed tells of it. */
  | 'silent'
  /** Of the moment: locks, leases, requests of a mount, what mounts report, notes for a gc that runs. */
  | 'skipped';

const ANNOUNCED = ['i:', 'd:', 'e:', 'b:', 'x:', 'l:', 't:'];

export function bucketKind(name: string): BucketKind {
  if (ANNOUNCED.some((prefix) => name.startsWith(prefix))) return 'announced';
  return name.startsWith('q:') || name === 'k' || name === 'p' || name === 'r' || name === 'leases'
    ? 'skipped'
    : 'silent';
}

/** A bucket holds numbers or values, never both. */
export function holdsNumbers(name: string): boolean {
  return name === 'n' || name === 'w' || name.startsWith('t:') || name.startsWith('stats:');
}
