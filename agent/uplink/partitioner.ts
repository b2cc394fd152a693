/**
 * Which partition a reading goes to: murmur2 of the key, as Kafka's default partitioner, so that other producers of the same topic agree.
 * Readings without a key go by blocks of their sequence number: even, in large batches, and the same again after a restart.
 */
import type { SpooledReading } from '../spool/spool-reader.ts';

/** Readings without a key that go to one partition before the next one is taken: about a batch of 200-byte readings. */
const KEYLESS_BLOCK_BITS = 11n;

export function partitionOf(key: Uint8Array | null, seq: bigint, partitions: number): number {
  return key === null ? keylessPartition(seq, partitions) : partitionOfHash(murmur2(key), partitions);
}

/** The same of a reading as it lies in memory. */
export function partitionOfReading({ place, seq }: Pick<SpooledReading, 'place' | 'seq'>, partitions: number): number {
  if (place.keyBytes < 0) return keylessPartition(seq, partitions);
  return partitionOfHash(murmur2(place.bytes, place.start, place.keyBytes), partitions);
}

function keylessPartition(seq: bigint, partitions: number): number {
  return Number((seq >> KEYLESS_BLOCK_BITS) % BigInt(partitions));
}

function partitionOfHash(hash: number, partitions: number): number {
  return (hash & 0x7fff_ffff) % partitions;
}

/** org.apache.kafka.common.utils.Utils.murmur2: 32 bits, little-endian words, Kafka's seed. */
export function murmur2(data: Uint8Array, start = 0, length = data.length): number {
  const multiplier = 0x5bd1e995;
  const at = (index: number): number => data[start + index] ?? 0;
  const words = length >> 2;
  let hash = 0x9747b28c ^ length;
  for (let word = 0; word < words; word++) {
    const i = word * 4;
    let k = at(i) | (at(i + 1) << 8) | (at(i + 2) << 16) | (at(i + 3) << 24);
    k = Math.imul(k, multiplier);
    k = Math.imul(k ^ (k >>> 24), multiplier);
    hash = Math.imul(hash, multiplier) ^ k;
  }
  const tail = words * 4;
  if (length - tail === 3) hash ^= at(tail + 2) << 16;
  if (length - tail >= 2) hash ^= at(tail + 1) << 8;
  if (length - tail >= 1) hash = Math.imul(hash ^ at(tail), multiplier);
  hash = Math.imul(hash ^ (hash >>> 13), multiplier);
  return hash ^ (hash >>> 15);
}
