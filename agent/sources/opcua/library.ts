/**
 * node-opcua-client, which whoever has an OPC UA server installs beside the agent: found, loaded, and described as far as it is used. Its services are
 * called as they are in OPC UA Part 4; its own subscriptions are not used, because they acknowledge before anything is stored.
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const PACKAGE = 'node-opcua-client';

/** The folder from which the library is found: that of the agent's own code, or that of agent.yaml. Null where it is not installed. */
export function libraryDirOf(baseDir: string): string | null {
  const isThere = (dir: string): boolean => {
    try {
      return createRequire(join(dir, 'any.js')).resolve(PACKAGE) !== '';
    } catch {
      return false;
    }
  };
  return [import.meta.dirname, baseDir].find(isThere) ?? null;
}

/** The attribute of a node that is its value (Part 4, annex A.1). */
export const ATTRIBUTE_VALUE = 13;

export type Named = Readonly<Record<string, unknown>>;
type Class<T> = new (fields: Named) => T;

export interface StatusCode {
  readonly name: string;
  readonly value: number;
}

export interface Variant {
  /** OPC UA Part 6, table 1. */
  readonly dataType: number;
  /** 0: a scalar, 1: an array, 2: a matrix. */
  readonly arrayType: number;
  readonly value: unknown;
}

export interface DataValue {
  readonly value: Variant;
  readonly statusCode: StatusCode;
  readonly sourceTimestamp: Date | null;
  readonly serverTimestamp: Date | null;
}

export interface NotificationMessage {
  readonly sequenceNumber: number;
  readonly notificationData:
    | readonly {
        readonly monitoredItems?: readonly { readonly clientHandle: number; readonly value: DataValue }[] | null;
        readonly status?: StatusCode;
      }[]
    | null;
}

export interface Session {
  publish(request: object, done: Done<PublishResponse>): void;
  republish(request: object, done: Done<{ readonly notificationMessage: NotificationMessage }>): void;
  createSubscription(
    request: object,
    done: Done<{ readonly subscriptionId: number; readonly revisedPublishingInterval: number }>,
  ): void;
  createMonitoredItems(
    request: object,
    done: Done<{ readonly results: readonly { readonly statusCode: StatusCode }[] | null }>,
  ): void;
  transferSubscriptions(
    request: object,
    done: Done<{ readonly results: readonly { readonly statusCode: StatusCode }[] | null }>,
  ): void;
  deleteSubscriptions(request: object, done: Done<unknown>): void;
  read(node: { nodeId: string; attributeId: number }): Promise<DataValue>;
  close(deleteSubscriptions: boolean): Promise<void>;
}

export interface PublishResponse {
  readonly subscriptionId: number;
  readonly availableSequenceNumbers: Iterable<number> | null;
  readonly notificationMessage: NotificationMessage;
}

export interface Client {
  connect(url: string): Promise<void>;
  disconnect(): Promise<void>;
  createSession(identity: Named): Promise<Session>;
  reactivateSession(session: Session): Promise<void>;
  on(event: 'connection_lost' | 'close', listener: () => void): void;
}

interface CertificateManager {
  initialize(): Promise<void>;
  trustCertificate(der: Buffer): Promise<unknown>;
}

export type Done<T> = (error: Error | null | undefined, result?: T) => void;

export interface Library {
  readonly OPCUAClient: { create(options: Named): Client };
  readonly OPCUACertificateManager: Class<CertificateManager>;
  readonly CreateSubscriptionRequest: Class<object>;
  readonly CreateMonitoredItemsRequest: Class<object>;
  readonly DataChangeFilter: Class<object>;
  readonly PublishRequest: Class<object>;
  readonly RepublishRequest: Class<object>;
  readonly TransferSubscriptionsRequest: Class<object>;
  readonly DeleteSubscriptionsRequest: Class<object>;
  readonly resolveNodeId: (text: string) => object;
}

/** Throws when it is not installed, or not as it is known here. */
export async function loadLibrary(dir: string): Promise<Library> {
  const client = createRequire(join(dir, 'any.js')).resolve(PACKAGE);
  // The parts that the client itself needs: not where ours would be found.
  const require = createRequire(client);
  const parts = ['service-subscription', 'certificate-manager', 'nodeid'].map((part) =>
    require.resolve(`node-opcua-${part}`),
  );
  const modules = await Promise.all(
    [client, ...parts].map(async (path) => (await import(pathToFileURL(path).href)) as Named),
  );
  const all: Named = Object.assign({}, ...modules) as Named;
  const missing = USED.find((name) => typeof all[name] !== 'function');
  if (missing !== undefined)
    throw new Error(`${PACKAGE} in ${client} has no ${missing}: expected version 2.186 or a later one of 2`);
  // Its shape was checked as far as a program can.
  return all as unknown as Library;
}

const USED: readonly (keyof Library)[] = [
  'OPCUAClient',
  'OPCUACertificateManager',
  'CreateSubscriptionRequest',
  'CreateMonitoredItemsRequest',
  'DataChangeFilter',
  'PublishRequest',
  'RepublishRequest',
  'TransferSubscriptionsRequest',
  'DeleteSubscriptionsRequest',
  'resolveNodeId',
];

/** One service call. */
export function call<T>(begin: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    begin((error, result) => {
      if (error !== null && error !== undefined) reject(error);
      else if (result === undefined) reject(new Error('the server answered nothing'));
      else resolve(result);
    });
  });
}
