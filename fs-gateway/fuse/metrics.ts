/**
 * Counts of what the device loop did, by operation: requests, errors and a latency histogram. One slot of a typed array each, so that
 * recording costs two additions and no allocation.
 */
import { OPCODES } from './opcodes.ts';

/** Upper bounds in microseconds: from a cached stat to a write that waited for the object store. */
export const BUCKETS_US = [
  10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000,
] as const;

export interface OperationMetrics {
  readonly count: number;
  readonly errors: number;
  readonly totalUs: number;
  /** Requests by upper bound in microseconds; the last one counts the rest. */
  readonly buckets: readonly number[];
}

export type MetricsSnapshot = Readonly<Record<string, OperationMetrics>>;

export class Metrics {
  readonly #count = new Float64Array(OPCODES.length);
  readonly #errors = new Float64Array(OPCODES.length);
  readonly #totalUs = new Float64Array(OPCODES.length);
  readonly #buckets = new Float64Array(OPCODES.length * (BUCKETS_US.length + 1));

  record(opcode: number, errno: number, elapsedUs: number): void {
    let bucket = 0;
    while (bucket < BUCKETS_US.length && elapsedUs > (BUCKETS_US[bucket] ?? 0)) bucket++;
    this.#add(this.#count, opcode, 1);
    this.#add(this.#totalUs, opcode, elapsedUs);
    this.#add(this.#buckets, opcode * (BUCKETS_US.length + 1) + bucket, 1);
    if (errno !== 0) this.#add(this.#errors, opcode, 1);
  }

  #add(array: Float64Array, index: number, value: number): void {
    array[index] = (array[index] ?? 0) + value;
  }

  /** Operations that were asked at least once, by lower-case name. */
  snapshot(): MetricsSnapshot {
    const result: Record<string, OperationMetrics> = {};
    OPCODES.forEach((opcode, number) => {
      const count = this.#count[number] ?? 0;
      if (opcode === undefined || count === 0) return;
      const width = BUCKETS_US.length + 1;
      result[opcode.name.toLowerCase()] = {
        count,
        errors: this.#errors[number] ?? 0,
        totalUs: Math.round(this.#totalUs[number] ?? 0),
        buckets: [...this.#buckets.subarray(number * width, (number + 1) * width)],
      };
    });
    return result;
  }
}

/** The Prometheus text format (counters and one histogram), labelled by operation and mount point. */
export function formatPrometheus(snapshot: MetricsSnapshot, mountpoint: string): string {
  const mount = mountpoint.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n');
  const operations = Object.entries(snapshot);
  const lines = [
    '# HELP penstock_fuse_errors_total FUSE requests answered with an errno.',
    '# TYPE penstock_fuse_errors_total counter',
    ...operations.map(
      ([name, m]) => `penstock_fuse_errors_total{mountpoint="${mount}",operation="${name}"} ${m.errors}`,
    ),
    '# HELP penstock_fuse_request_seconds Time from reading a FUSE request to its reply.',
    '# TYPE penstock_fuse_request_seconds histogram',
  ];
  for (const [name, m] of operations) {
    const labels = `mountpoint="${mount}",operation="${name}"`;
    let sum = 0;
    m.buckets.forEach((count, i) => {
      sum += count;
      const bound = BUCKETS_US[i];
      const le = bound === undefined ? '+Inf' : String(bound / 1e6);
      lines.push(`penstock_fuse_request_seconds_bucket{${labels},le="${le}"} ${sum}`);
    });
    lines.push(`penstock_fuse_request_seconds_sum{${labels}} ${m.totalUs / 1e6}`);
    lines.push(`penstock_fuse_request_seconds_count{${labels}} ${m.count}`);
  }
  return `${lines.join('\n')}\n`;
}
