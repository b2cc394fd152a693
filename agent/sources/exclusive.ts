/** What two sources of one agent cannot share, and what a source may use of the spool. */
import { resolve } from 'node:path';
import type { AgentConfig, SourceConfig } from '../config.ts';
import { deviceAddress } from './modbus/config.ts';
import { brokerAddress } from './mqtt/config.ts';
import { receiptsPerSpool } from '../spool/segment-files.ts';

export interface Clash {
  /** Of the second source. */
  readonly index: number;
  readonly key: string;
  readonly message: string;
}

interface Exclusive {
  readonly key: string;
  readonly value: string;
  readonly why: string;
}

const LOCAL_JOURNALS: readonly [string, ...string[]] = ['/var/log/journal', '/run/log/journal'];
const SAME_ADDRESS = 'two sources listen on the same address';

function exclusiveOf(source: SourceConfig): readonly Exclusive[] {
  switch (source.type) {
    case 'file':
      return [{ key: 'path', value: source.path, why: 'two file sources have the same path: their positions would be mixed up' }]; // prettier-ignore
    case 'http':
      return [{ key: 'listen', value: source.listen, why: SAME_ADDRESS }];
    case 'syslog': {
      // UDP has ports of its own.
      const value = source.transport === 'udp' ? `udp ${source.listen}` : source.listen;
      return [{ key: 'listen', value, why: SAME_ADDRESS }];
    }
    case 'journald': {
      const why =
        'two journald sources read the same journal into one topic: expected one, with the units, identifiers and matches of both';
      const directory = source.directory === undefined ? LOCAL_JOURNALS[0] : resolve(source.directory);
      // Without a directory, the source reads all of these.
      const journal = LOCAL_JOURNALS.includes(directory) ? LOCAL_JOURNALS[0] : directory;
      return [{ key: 'to', value: `${journal} ${source.to}`, why }];
    }
    case 'mqtt': {
      const { host, port } = brokerAddress(source);
      const why = 'two mqtt sources are one client of one broker: expected a `clientId` for each';
      return [{ key: 'clientId', value: `${host}:${port}/${source.clientId ?? ''}`, why }];
    }
    case 'modbus': {
      const { host, port } = deviceAddress(source);
      const why =
        'two modbus sources have the same device: expected one, with all its units and groups (many devices take one connection)';
      return [{ key: 'url', value: `${host}:${port}`, why }];
    }
    case 'opcua':
      return [{ key: 'url', value: source.url, why: 'two opcua sources have the same server: expected one, with all its nodes' }]; // prettier-ignore
    case 'host':
    case 'simulator':
      return [];
  }
}

export function clashesOf(sources: readonly SourceConfig[]): readonly Clash[] {
  const seen = new Set<string>();
  return sources.flatMap((source, index) =>
    exclusiveOf(source).flatMap(({ key, value, why }) => {
      const isNew = seen.size < seen.add(JSON.stringify([key, value])).size;
      return isNew ? [] : [{ index, key, message: why }];
    }),
  );
}

/** How many receipts each source may keep, where several share the spool. */
export function receiptsPerSource({ spool, sources }: Pick<AgentConfig, 'spool' | 'sources'>): number {
  const sharing = sources.filter(({ type }) => type === 'http' || type === 'mqtt').length;
  return Math.floor(receiptsPerSpool(spool.maxBytes) / Math.max(1, sharing));
}
