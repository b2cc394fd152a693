/** What the agent and its OPC UA process say to each other, over the process's IPC channel: both ends are of one version. */
import type { OpcuaSourceConfig } from './config.ts';

/** What continues a subscription that an earlier connection, process or agent made. */
export interface Resumption {
  /** The start of the server: after another one, its ids mean other subscriptions. */
  readonly server: string;
  readonly subscription: number;
  /** Of the last notification that is on the disk. */
  readonly sequence: number;
  /** Nodes that the subscription is without, because the server refused them: their indexes. */
  readonly refused: readonly number[];
}

export interface ClientOptions {
  readonly config: OpcuaSourceConfig;
  /** Where the library is found. */
  readonly libraryDir: string;
  /** Keeps certificates. */
  readonly pkiDir: string;
  readonly applicationUri: string;
  readonly password: string | null;
  /** DER. */
  readonly serverCert: Buffer | null;
  readonly certPath: string | null;
  readonly keyPath: string | null;
  readonly resumption: Resumption | null;
  /** A subscription with other nodes, of an earlier configuration: it is removed. */
  readonly outdated: Resumption | null;
}

export interface NodeReading {
  /** Index of the node in the configuration. */
  readonly node: number;
  /** The reading, but for the node's own fields: JSON of an object, without its first brace. */
  readonly fields: string;
  /** Of the source, else of the server; null when there is neither. Epoch us. */
  readonly timeUs: number | null;
  readonly isTimeOfSource: boolean;
  readonly hasOverflowed: boolean;
}

export type ToClient =
  | { readonly type: 'start'; readonly options: ClientOptions }
  /** The notification is on the disk. */
  | { readonly type: 'stored'; readonly subscription: number; readonly sequence: number }
  /** Ends, and leaves the subscription with the server. */
  | { readonly type: 'end' };

export type FromClient =
  | { readonly type: 'notification'; readonly from: Resumption; readonly readings: readonly NodeReading[] }
  | { readonly type: 'event'; readonly event: ClientEvent }
  | { readonly type: 'problem'; readonly problem: string | null };

export type ClientEvent =
  | 'connection'
  /** A value that the server sent again. */
  | 'repeat'
  /** A subscription was made where there was one to continue: what the old one had not delivered is lost. */
  | 'subscription_lost'
  /** A notification that the server does not have any more. */
  | 'notification_lost';
