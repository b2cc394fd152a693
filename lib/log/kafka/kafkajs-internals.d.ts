/**
 * The parts of kafkajs 2.2.4 that its public types leave out and that kafkajs-transport.ts uses. The package has no `exports` map, so the
 * modules can be imported by path. The version is pinned exactly; the contract suite and test/log/kafka-transport.test.ts fail when
 * a part is not there any more.
 */
declare module 'kafkajs/src/network/requestQueue/index.js' {
  export default class RequestQueue {
    constructor(options: {
      readonly requestTimeout: number;
      readonly enforceRequestTimeout: boolean;
      readonly maxInFlightRequests: null;
      readonly clientId: string;
      readonly broker: string;
      readonly logger: { readonly debug: (message: string) => void };
    });
    /** ms since the epoch. */
    readonly throttledUntil: number;
    readonly throttleCheckTimeoutId: NodeJS.Timeout | null;
    maybeThrottle(ms: number | null): void;
    scheduleCheckPendingRequests(): void;
    checkPendingRequests(): void;
    canSendSocketRequestImmediately(): boolean;
    push(request: {
      readonly entry: {
        readonly apiKey: number;
        readonly apiName: string;
        readonly apiVersion: number;
        readonly correlationId: number;
        readonly resolve: (answer: { readonly payload: Buffer }) => void;
        readonly reject: (error: Error) => void;
      };
      readonly expectResponse: true;
      readonly sendRequest: () => void;
    }): void;
    destroy(): void;
  }
}

declare module 'kafkajs/src/network/connection.js' {
  import type RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
  export default class Connection {
    readonly requestQueue: RequestQueue;
    readonly sasl: object | null;
    isConnected(): boolean;
    isAuthenticated(): boolean;
    authenticate(): Promise<void>;
    nextCorrelationId(): number;
    processData(data: Buffer): void;
    rejectRequests(error: Error): void;
  }
}

declare module 'kafkajs/src/network/connectionPool.js' {
  import type Connection from 'kafkajs/src/network/connection.js';
  export interface Logger {
    namespace(name: string): Logger;
    debug(message: string): void;
    info(message: string): void;
    warn(message: string): void;
    error(message: string): void;
  }
  export default class ConnectionPool {
    constructor(options: {
      readonly host: string;
      readonly port: number;
      readonly clientId: string;
      readonly logger: Logger;
      readonly socketFactory: (options: { readonly onConnect: () => void }) => import('node:net').Socket;
      readonly connectionTimeout: number;
      readonly reauthenticationThreshold: number;
      readonly requestTimeout: number;
      readonly enforceRequestTimeout: boolean;
      readonly sasl: { mechanism: string; username: string; password: string } | null;
    });
    getConnection(index: number): Promise<Connection>;
    map<T>(callback: (connection: Connection) => T): T[];
  }
}

declare module 'kafkajs/src/broker/index.js' {
  import type ConnectionPool from 'kafkajs/src/network/connectionPool.js';
  import type { Logger } from 'kafkajs/src/network/connectionPool.js';
  export default class Broker {
    constructor(options: { readonly connectionPool: ConnectionPool; readonly logger: Logger });
    readonly versions: Readonly<
      Record<number, { readonly minVersion: number; readonly maxVersion: number } | undefined>
    > | null;
    connect(): Promise<void>;
  }
}
