/**
 * Two faults of kafkajs 2.2.4's request queue, corrected on the queue of each connection:
 *
 * - Every answer arms a timer of 1 ms that arms itself again for ever, pending requests or not: 1.9 % of a core for an idle producer.
 * - Throttling is kept as a wall-clock time: a clock that is set back by a year silences the connection for a year.
 *
 * The queue holds requests back only while it is throttled. So the broker's wish for a pause goes to our own throttle (broker-link.ts,
 * monotonic), nothing is ever pending in the queue, and it needs no timer. test/log/kafka-transport.test.ts fails when a version of
 * kafkajs no longer has these faults.
 */
import type RequestQueue from 'kafkajs/src/network/requestQueue/index.js';

export function correctRequestQueue(queue: RequestQueue, throttle: (ms: number) => void): void {
  queue.maybeThrottle = (ms) => {
    if (ms !== null && ms > 0) throttle(ms);
  };
  queue.scheduleCheckPendingRequests = () => undefined;
}
