/**
 * What the adapter needs of a Kafka client library: authenticated connections that carry requests of ours. Everything above (metadata,
 * producing, fetching) is the same for each of them.
 */
import { PenstockError, describeError, systemCode } from '../../errors.ts';
import type { HostPort } from '../../urls.ts';
import type { KafkaOptions } from './kafka-url.ts';
import type { KafkaLimits } from './limits.ts';
import type { Api } from './request.ts';

export const CLIENT_ID = 'penstock';

export interface Wire {
  readonly isOpen: boolean;
  /**
   * Undefined when a request may be sent now, else resolves when the session has been authenticated again (KIP-368).
   * Nothing else may be sent meanwhile.
   */
  renewal(): Promise<void> | undefined;
  /**
   * Writes the request before it returns, so that the order of calls is the order on the wire. Resolves to what stands behind the
   * correlation id of the answer; rejects when the connection breaks.
   */
  send(api: Api, body: readonly Uint8Array[]): Promise<Buffer>;
  /** Breaks the connection at once; what is in flight is rejected. */
  destroy(): void;
}

export interface Transport {
  /**
   * Connects and authenticates. Rejects with `unavailable`, `timeout` or `denied`, and `unsupported` for a broker that does not take our
   * versions. `throttle` hears of the pauses that the broker asks for in answers to the library's own requests.
   */
  connect(address: HostPort, throttle: (ms: number) => void): Promise<Wire>;
}

export type OpenTransport = (options: KafkaOptions, limits: KafkaLimits) => Transport;

const SASL_TROUBLE = /sasl|authenticat/i;
/** How Node and OpenSSL say that the other side's certificate is not to be trusted, or that it does not speak TLS. */
const TLS_TROUBLE =
  /^(CERT_|ERR_TLS_|ERR_SSL_|EPROTO$|DEPTH_ZERO_SELF_SIGNED_CERT$|SELF_SIGNED_CERT|UNABLE_TO_(GET_ISSUER|VERIFY_LEAF|DECRYPT|DECODE))/;

/** What a client library threw while it was connecting, as an error of ours. */
export function connectError(error: unknown, address: HostPort): PenstockError {
  if (error instanceof PenstockError) return error;
  const where = `cannot connect to Kafka at ${address.host}:${address.port}`;
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const code = systemCode(cause) ?? '';
    if (TLS_TROUBLE.test(code))
      return new PenstockError('denied', `${where}: TLS: ${describeError(error)}`, { cause: error });
    const type = 'type' in cause && typeof cause.type === 'string' ? cause.type : '';
    if (SASL_TROUBLE.test(type) || SASL_TROUBLE.test(cause.name) || SASL_TROUBLE.test(code)) {
      return new PenstockError('denied', `${where}: ${describeError(error)}`, { cause: error });
    }
  }
  return new PenstockError('unavailable', `${where}: ${describeError(error)}`, { cause: error });
}
