/** Services that are known by a name, whether they answer, and what Penstock can talk to. */
import { api, type Connection, type Driver, type PagedList, type TestResult } from './api.ts';
import { h, replace } from './dom.ts';
import { moment } from './format.ts';
import { empty, pages, section, table, type View } from './parts.ts';

const PAGE = 100;

export const connections: View = {
  show(root, signal) {
    root.append(
      section({
        title: 'Connections',
        note: 'Their credentials are sealed and shown to nobody.',
        read: () => api<PagedList<Connection>>(`/v1/connections?limit=${PAGE}`, { signal }),
        render: (first) => renderConnections(first, signal),
        signal,
      }),
      section({
        title: 'Drivers',
        note: 'What an address may look like, and the vendors’ own calls.',
        read: () => api<PagedList<Driver>>('/v1/drivers', { signal }),
        render: ({ items }) => renderDrivers(items),
        signal,
      }),
    );
  },
};

function renderConnections(first: PagedList<Connection>, signal: AbortSignal): Node {
  if (first.items.length === 0) {
    return empty('No connection yet', 'penstock ctl connections create --name NAME --address URL --credentials @FILE');
  }
  return pages(first, 'More connections', connectionTable, (cursor) =>
    api<PagedList<Connection>>(`/v1/connections?limit=${PAGE}&cursor=${cursor}`, { signal }),
  );
}

function connectionTable(items: readonly Connection[]): HTMLElement {
  return table(
    'Connections',
    [
      { title: 'Name', cell: ({ name }) => name },
      { title: 'Address', cell: ({ address }) => h('code', {}, address), wide: true },
      { title: 'Does it answer?', cell: testCell, wide: true },
      { title: 'About', cell: about, wide: true },
      {
        title: 'Credentials',
        cell: ({ credentials, keyId }) => (keyId === null ? 'none' : `${credentials.join(', ')}; key ${keyId}`),
        wide: true,
      },
      { title: 'Changed', cell: ({ changedMs, changedBy }) => `${moment(changedMs)} by ${changedBy}`, wide: true },
    ],
    items,
  );
}

function about({ region, tags, price }: Connection): string {
  const parts = [region, Object.entries(tags).map(asTag).join(', '), price === null ? '' : priceText(price)];
  return parts.filter((part) => part !== '').join('\n');
}

const asTag = ([name, value]: readonly [string, string]): string => (value === '' ? name : `${name}=${value}`);

function priceText({ currency, ...prices }: NonNullable<Connection['price']>): string {
  const named = { storageGBMonth: 'GB a month', gets: '1,000 GETs', puts: '1,000 PUTs', egressGB: 'GB out' } as const;
  return Object.entries(named)
    .flatMap(([key, what]) => {
      const price = prices[key as keyof typeof named]; // its own key
      return price === undefined ? [] : [`${price} ${currency} for ${what}`];
    })
    .join(', ');
}

function testCell({ name }: Connection): Node {
  const result = h('div', { role: 'status' });
  const button = h(
    'button',
    { type: 'button', 'aria-label': `Test ${name}`, on: { click: () => void test() } },
    'Test',
  );
  async function test(): Promise<void> {
    button.disabled = true;
    replace(result, 'asking …');
    try {
      const path = `/v1/connections/${encodeURIComponent(name)}/test`;
      const { ok, seconds, problem, remedy } = await api<TestResult>(path, { method: 'POST' });
      replace(
        result,
        h('span', { class: ok ? 'tag good' : 'tag warn' }, ok ? 'answers' : 'fails'),
        ok ? ` in ${seconds} s` : ` ${problem ?? ''}`,
        remedy === null ? null : h('div', { class: 'note' }, `To do: ${remedy}.`),
      );
    } catch (error) {
      replace(result, error instanceof Error ? error.message : String(error));
    }
    button.disabled = false;
  }
  return h('div', {}, button, result);
}

function renderDrivers(drivers: readonly Driver[]): Node {
  return table(
    'Drivers',
    [
      { title: 'For', cell: ({ port }) => port },
      { title: 'Address', cell: ({ form }) => h('code', {}, form) },
      { title: 'Options', cell: ({ options }) => Object.keys(options).join(', '), wide: true },
      {
        title: 'Credentials',
        cell: ({ credentials }) => (credentials === null ? 'can be no connection' : credentials.join(', ')),
        wide: true,
      },
      { title: 'Calls', cell: ({ calls }) => calls.map(({ name }) => name).join(', '), wide: true },
    ],
    drivers,
  );
}
