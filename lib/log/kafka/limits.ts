/** How long this adapter waits. Together they outlast a leader election and the restart of a broker; an outage is the caller's matter. */
export interface KafkaLimits {
  /** TCP, TLS, ApiVersions and SASL together. */
  readonly connectMs: number;
  /** For an answer; a fetch that may be held back has its `maxWaitMs` on top. */
  readonly requestMs: number;
  /** How long a call begins further attempts. */
  readonly callMs: number;
  /** How long after its call a batch is sent again. */
  readonly deliveryMs: number;
}

export const DEFAULT_LIMITS: KafkaLimits = { connectMs: 10_000, requestMs: 10_000, callMs: 10_000, deliveryMs: 15_000 };

/** A broker's own bound on work that it may wait for (replicas, the controller), below ours for the answer. */
export function brokerTimeoutMs({ requestMs }: KafkaLimits): number {
  return Math.ceil(requestMs * 0.8);
}
