/**
 * The storage layout of the Redis adapter.
 *
 *   key                        type    field         what
 *   <bucket>                   hash    <field>       a value record: version (10 bytes), then the value; or a number: its decimal
 *   penstock:feed:<shard>      string                the sequence of the last message of a feed shard
 *   penstock:sessions          hash    <id>          a session as JSON: kind, host, pid, detail, startedMs
 *   penstock:session:<id>      hash    x             when its lease ends, ms of Redis's clock
 *                                      r             when it was last renewed, ms of Redis's clock
 *                                      o<operation>  the result of a commit that carried this operation id
 *   penstock:instants:{tag}    hash    <instant>     when its lease ends, ms of Redis's clock; 0: nothing is kept for it any more
 *                                      <instant>b    bytes that were kept for it
 *   penstock:before:{tag}<instant>           hash    <bucket>   '': something of this bucket was kept
 *   penstock:before:{tag}<instant>:<bucket>  hash    <field>    what was there at the instant; '': nothing
 *   penstock:last-session      string                the highest session id that was given
 *   penstock:keeping           hash    last          the highest id of a session whose commits keep what they overwrite for instants
 *                                      older         how often another id was found above it
 *   penstock:flush             string                written so that WAIT has a write to wait for
 *
 *   version    u32 session, u48 counter of that session, big-endian
 *   result     version, then the patched numbers in decimal, joined by ',' (an absent one is empty)
 *   channel    penstock:feed:<shard>@<db>: channels are common to all databases of a server, keys are not
 *   instant    <session>-<number>
 *   message    u48 sequence, then the bytes that were published
 *
 * No key has a TTL: a `volatile-*` eviction policy finds nothing of ours to evict.
 *
 * Cluster: a bucket and a shard begin with the hash tag of their volume, so all that a commit changes is in one slot, but for the
 * session's record. There it needs one copy per tag, `penstock:session:{tag}<id>`, made at the first commit in the tag and renewed
 * with the others. Until that is built a Redis Cluster is refused at open. (docs/decisions/0003-redis-epoch-and-sessions.md)
 */
export const SESSIONS_KEY = 'penstock:sessions';
export const LAST_SESSION_KEY = 'penstock:last-session';
export const KEEPING_KEY = 'penstock:keeping';
export const FLUSH_KEY = 'penstock:flush';
/** Followed by the session's id. */
export const SESSION_PREFIX = 'penstock:session:';
const FEED_PREFIX = 'penstock:feed:';

export function sessionKey(id: number): string {
  return SESSION_PREFIX + String(id);
}

export function feedKey(shard: string): string {
  return FEED_PREFIX + shard;
}

export function feedChannel(shard: string, database: number): string {
  return `${FEED_PREFIX}${shard}@${database}`;
}

const INSTANTS_PREFIX = 'penstock:instants:';
const BEFORE_PREFIX = 'penstock:before:';

export function instantsKey(tag: string): string {
  return INSTANTS_PREFIX + tag;
}

/** The index of what was kept for an instant; the hash of a bucket is this, ':' and the bucket. */
export function beforeKey(tag: string, instant: string): string {
  return BEFORE_PREFIX + tag + instant;
}
