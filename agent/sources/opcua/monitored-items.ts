/** Asking a server to watch nodes for a subscription (OPC UA Part 4, section 5.12.2), with what the configuration says of each. */
import { ATTRIBUTE_VALUE, call, type Library, type Session, type StatusCode } from './library.ts';
import type { OpcuaSourceConfig } from './config.ts';

const ITEMS_PER_REQUEST = 500;
/** Part 4: enumerations. */
const REPORTING = 2;
const TIMESTAMPS_BOTH = 2;
const TRIGGER_STATUS_VALUE = 1;
const DEADBAND = { absolute: 1, percent: 2 } as const;
const NAMESPACES = 'i=2255';

/** `nodes` are indexes in the configuration. Returns what the server said of those that it refused. */
export async function monitorNodes(
  library: Library,
  session: Session,
  config: OpcuaSourceConfig,
  subscriptionId: number,
  nodes: readonly number[],
): Promise<ReadonlyMap<number, string>> {
  const refused = new Map<number, string>();
  const isNamed = nodes.some((index) => config.nodes[index]?.node.startsWith('nsu='));
  const namespaces = isNamed ? await namespacesOf(session) : [];
  const wanted = nodes.flatMap((index) => {
    const nodeId = localId(config.nodes[index]?.node ?? '', namespaces);
    if (nodeId === null) refused.set(index, 'the server has no such namespace');
    return nodeId === null ? [] : [{ index, item: itemOf(library, config, index, nodeId) }];
  });
  for (let from = 0; from < wanted.length; from += ITEMS_PER_REQUEST) {
    const part = wanted.slice(from, from + ITEMS_PER_REQUEST);
    const request = new library.CreateMonitoredItemsRequest({
      subscriptionId,
      timestampsToReturn: TIMESTAMPS_BOTH,
      itemsToCreate: part.map(({ item }) => item),
    });
    const { results } = await call<{ results: readonly { statusCode: StatusCode }[] | null }>((done) =>
      session.createMonitoredItems(request, done),
    );
    part.forEach(({ index }, place) => {
      const status = results?.[place]?.statusCode;
      if (status?.value !== 0) refused.set(index, status?.name ?? 'no answer');
    });
  }
  return refused;
}

function itemOf(library: Library, config: OpcuaSourceConfig, index: number, nodeId: string): object {
  const node = config.nodes[index];
  const deadband = node?.deadband ?? config.deadband;
  const filter =
    deadband === undefined
      ? null
      : new library.DataChangeFilter({
          trigger: TRIGGER_STATUS_VALUE,
          deadbandType: typeof deadband === 'number' ? DEADBAND.absolute : DEADBAND.percent,
          deadbandValue: Number.parseFloat(String(deadband)),
        });
  return {
    itemToMonitor: { nodeId: library.resolveNodeId(nodeId), attributeId: ATTRIBUTE_VALUE },
    monitoringMode: REPORTING,
    requestedParameters: {
      clientHandle: index,
      samplingInterval: node?.samplingInterval ?? config.samplingInterval,
      queueSize: node?.queueSize ?? config.queueSize,
      discardOldest: true,
      filter,
    },
  };
}

async function namespacesOf(session: Session): Promise<readonly unknown[]> {
  const { value } = await session.read({ nodeId: NAMESPACES, attributeId: ATTRIBUTE_VALUE });
  return Array.isArray(value.value) ? (value.value as readonly unknown[]) : [];
}

/** With the index that the namespace has on this server at present; null when it has none. */
function localId(node: string, namespaces: readonly unknown[]): string | null {
  const [, uri, rest] = /^nsu=([^;]+);(.*)$/s.exec(node) ?? [];
  if (uri === undefined || rest === undefined) return node;
  const index = namespaces.indexOf(uri);
  return index < 0 ? null : `ns=${index};${rest}`;
}
