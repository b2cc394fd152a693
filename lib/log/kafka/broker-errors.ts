/**
 * What each error of a broker means to the callers of the Log port. Source: org.apache.kafka.common.protocol.Errors.
 *
 * `unavailable` and `timeout` are the passing ones: after fresh metadata the same request may succeed, and the adapter tries again within
 * its bounds. All others go to the caller at once.
 */
import { PenstockError, type ErrorCode } from '../../errors.ts';

export const NO_ERROR = 0;
export const OFFSET_OUT_OF_RANGE = 1;
export const UNKNOWN_TOPIC_OR_PARTITION = 3;
const REQUEST_TIMED_OUT = 7;
const NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20;
export const TOPIC_ALREADY_EXISTS = 36;
export const THROTTLING_QUOTA_EXCEEDED = 89;
/** Passing errors of an append that may have been stored all the same. */
export const EFFECT_UNKNOWN: ReadonlySet<number> = new Set([-1, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND]);

const ERRORS: Readonly<Record<number, readonly [name: string, code: ErrorCode]>> = {
  [-1]: ['UNKNOWN_SERVER_ERROR', 'unavailable'],
  [OFFSET_OUT_OF_RANGE]: ['OFFSET_OUT_OF_RANGE', 'not-found'],
  2: ['CORRUPT_MESSAGE', 'corrupt'],
  // Also what a broker says that has not heard of the topic yet: the appender asks for metadata before it believes it.
  [UNKNOWN_TOPIC_OR_PARTITION]: ['UNKNOWN_TOPIC_OR_PARTITION', 'unavailable'],
  5: ['LEADER_NOT_AVAILABLE', 'unavailable'],
  6: ['NOT_LEADER_OR_FOLLOWER', 'unavailable'],
  [REQUEST_TIMED_OUT]: ['REQUEST_TIMED_OUT', 'timeout'],
  8: ['BROKER_NOT_AVAILABLE', 'unavailable'],
  9: ['REPLICA_NOT_AVAILABLE', 'unavailable'],
  10: ['MESSAGE_TOO_LARGE', 'too-large'],
  13: ['NETWORK_EXCEPTION', 'unavailable'],
  14: ['COORDINATOR_LOAD_IN_PROGRESS', 'unavailable'],
  15: ['COORDINATOR_NOT_AVAILABLE', 'unavailable'],
  16: ['NOT_COORDINATOR', 'unavailable'],
  17: ['INVALID_TOPIC_EXCEPTION', 'config'],
  18: ['RECORD_LIST_TOO_LARGE', 'too-large'],
  19: ['NOT_ENOUGH_REPLICAS', 'unavailable'],
  [NOT_ENOUGH_REPLICAS_AFTER_APPEND]: ['NOT_ENOUGH_REPLICAS_AFTER_APPEND', 'unavailable'],
  21: ['INVALID_REQUIRED_ACKS', 'unsupported'],
  // What a group's coordinator says to who commits without being a member while there are some.
  22: ['ILLEGAL_GENERATION', 'held'],
  25: ['UNKNOWN_MEMBER_ID', 'held'],
  27: ['REBALANCE_IN_PROGRESS', 'held'],
  29: ['TOPIC_AUTHORIZATION_FAILED', 'denied'],
  30: ['GROUP_AUTHORIZATION_FAILED', 'denied'],
  31: ['CLUSTER_AUTHORIZATION_FAILED', 'denied'],
  // Only where a topic of others has CreateTime: those that we make have LogAppendTime.
  32: ['INVALID_TIMESTAMP', 'unsupported'],
  33: ['UNSUPPORTED_SASL_MECHANISM', 'denied'],
  34: ['ILLEGAL_SASL_STATE', 'denied'],
  35: ['UNSUPPORTED_VERSION', 'unsupported'],
  [TOPIC_ALREADY_EXISTS]: ['TOPIC_ALREADY_EXISTS', 'exists'],
  37: ['INVALID_PARTITIONS', 'config'],
  38: ['INVALID_REPLICATION_FACTOR', 'config'],
  39: ['INVALID_REPLICA_ASSIGNMENT', 'config'],
  40: ['INVALID_CONFIG', 'config'],
  41: ['NOT_CONTROLLER', 'unavailable'],
  43: ['UNSUPPORTED_FOR_MESSAGE_FORMAT', 'unsupported'],
  44: ['POLICY_VIOLATION', 'denied'],
  45: ['OUT_OF_ORDER_SEQUENCE_NUMBER', 'out-of-order'],
  // Brokers before 4.0: a repeat that is older than the five batches they remember. Later ones say OUT_OF_ORDER.
  46: ['DUPLICATE_SEQUENCE_NUMBER', 'out-of-order'],
  47: ['INVALID_PRODUCER_EPOCH', 'fenced'],
  54: ['SECURITY_DISABLED', 'unsupported'],
  56: ['KAFKA_STORAGE_ERROR', 'unavailable'],
  58: ['SASL_AUTHENTICATION_FAILED', 'denied'],
  59: ['UNKNOWN_PRODUCER_ID', 'unknown-producer'],
  60: ['REASSIGNMENT_IN_PROGRESS', 'unavailable'],
  73: ['TOPIC_DELETION_DISABLED', 'unsupported'],
  74: ['FENCED_LEADER_EPOCH', 'unavailable'],
  75: ['UNKNOWN_LEADER_EPOCH', 'unavailable'],
  76: ['UNSUPPORTED_COMPRESSION_TYPE', 'unsupported'],
  78: ['OFFSET_NOT_AVAILABLE', 'unavailable'],
  87: ['INVALID_RECORD', 'corrupt'],
  88: ['UNSTABLE_OFFSET_COMMIT', 'unavailable'],
  [THROTTLING_QUOTA_EXCEEDED]: ['THROTTLING_QUOTA_EXCEEDED', 'unavailable'],
  90: ['PRODUCER_FENCED', 'fenced'],
  // After fresh metadata it is known whether the topic is another one by now.
  100: ['UNKNOWN_TOPIC_ID', 'unavailable'],
  103: ['INCONSISTENT_TOPIC_ID', 'unavailable'],
  119: ['REBOOTSTRAP_REQUIRED', 'unavailable'],
};

/** `what` was asked for; `detail` is what the broker says beside the number. */
export function brokerError(error: number, what: string, detail: string | null = null): PenstockError {
  const [name, code] = ERRORS[error] ?? [`Kafka error ${error}`, 'io' as const];
  return new PenstockError(code, `${what}: ${name}${detail === null ? '' : ` (${detail})`}`);
}

export type PassingError = PenstockError & { readonly code: 'unavailable' | 'timeout' };

/** True when another attempt may have another outcome. */
export function isPassing(error: unknown): error is PassingError {
  return error instanceof PenstockError && (error.code === 'unavailable' || error.code === 'timeout');
}
