/** The records that did not fit: why, and what they were. */
import { api, type PagedList, type QuarantineObject, type QuarantineRecord } from './api.ts';
import { h, replace } from './dom.ts';
import { bytes, count, counted, moment } from './format.ts';
import { empty, section, table, type View } from './parts.ts';

export function quarantine(dataset: string | undefined): View {
  return {
    show(root, signal) {
      const query = dataset === undefined ? '' : `&dataset=${encodeURIComponent(dataset)}`;
      const records = h('div', {});
      root.append(
        section({
          title: dataset === undefined ? 'Quarantine' : `Quarantine of ${dataset}`,
          note: 'The newest 100 commits with records that did not fit. Nothing is dropped: each record is kept as it came.',
          read: () => api<PagedList<QuarantineObject>>(`/v1/quarantine?limit=100${query}`, { signal }),
          render: ({ items }) =>
            renderObjects(items, (object) => {
              replace(records, showRecords(object, signal));
              records.scrollIntoView({ block: 'start' });
            }),
          everyMs: 5000,
          signal,
        }),
        records,
      );
    },
  };
}

function renderObjects(objects: readonly QuarantineObject[], open: (object: QuarantineObject) => void): Node {
  if (objects.length === 0) return empty('Nothing is quarantined', 'Every record so far fitted its table.');
  return table(
    'Quarantined records by commit',
    [
      { title: 'Committed', cell: ({ committedMs }) => moment(committedMs) },
      { title: 'Dataset', cell: ({ dataset }) => dataset },
      { title: 'Records', cell: ({ records }) => count(records), number: true },
      { title: 'Size', cell: ({ bytes: size }) => bytes(size), number: true },
      {
        title: 'Reasons',
        cell: ({ reasons }) =>
          Object.entries(reasons)
            .map(([reason, records]) => `${reason} (${count(records)})`)
            .join(', '),
        wide: true,
      },
      {
        title: 'What came',
        cell: (object) =>
          h(
            'button',
            {
              type: 'button',
              'aria-label': `Show ${counted(object.records, 'record')} of ${object.dataset}`,
              on: { click: () => open(object) },
            },
            'Show',
          ),
      },
    ],
    objects,
  );
}

function showRecords({ dataset, object }: QuarantineObject, signal: AbortSignal): HTMLElement {
  return section({
    title: 'Records',
    note: object,
    read: () =>
      api<{ items: readonly QuarantineRecord[]; more: boolean }>(
        `/v1/quarantine/${encodeURIComponent(dataset)}/records?limit=200&object=${encodeURIComponent(object)}`,
        { signal },
      ),
    render: ({ items, more }) =>
      h(
        'div',
        {},
        table(
          'Records',
          [
            { title: 'Partition', cell: ({ partition }) => String(partition), number: true },
            { title: 'Offset', cell: ({ offset }) => offset, number: true },
            { title: 'Reason', cell: ({ reason }) => reason, wide: true },
            { title: 'Key', cell: ({ key }) => h('code', {}, key ?? 'null') },
            { title: 'Value', cell: ({ value }) => h('code', {}, value ?? 'null'), wide: true },
          ],
          items,
        ),
        more ? h('p', { class: 'more' }, 'More records are in the object.') : null,
      ),
    signal,
  });
}
