/**
 * The way to a master that Sentinels name, without words on the console. ioredis listens to the Sentinels for a failover on connections of its
 * own, to which nobody else can add a listener of errors; without one it prints each error with its stack, every minute for a Sentinel that is
 * down. Nobody need hear of it: the connection is made again, and the other Sentinels tell of a failover meanwhile.
 */
import { SentinelConnector, type Redis, type SentinelConnectionOptions } from 'ioredis';

interface Inner {
  connectToSentinel(...args: readonly unknown[]): Redis;
}

export class QuietSentinelConnector extends SentinelConnector {
  /** `options`: those of the main connection, which ioredis hands on. */
  constructor(options: unknown) {
    super(options as SentinelConnectionOptions);
    // Private in ioredis's types; test/meta/redis-engine.test.ts fails when a version has it no more.
    const inner = this as unknown as Inner;
    const connect = inner.connectToSentinel.bind(this);
    inner.connectToSentinel = (...args) => connect(...args).on('error', () => undefined);
  }
}
