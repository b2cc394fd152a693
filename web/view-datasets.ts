/** One dataset: file sizes before and after compaction, its table, its snapshots. Without a name, the list. */
import {
  api,
  type Dataset,
  type FileSizes,
  type PagedList,
  type Partition,
  type Table,
  type TableSnapshot,
} from './api.ts';
import { h } from './dom.ts';
import { bytes, count, counted, moment } from './format.ts';
import { empty, facts, section, table, type View } from './parts.ts';

export function datasets(name: string | undefined): View {
  return { show: (root, signal) => (name === undefined ? showList(root, signal) : showOne(root, signal, name)) };
}

function showList(root: HTMLElement, signal: AbortSignal): void {
  root.append(
    section({
      title: 'Datasets',
      read: () => api<PagedList<Dataset>>('/v1/datasets', { signal }),
      render: ({ items }) => {
        if (items.length === 0) return empty('No dataset', 'Datasets are declared in pipeline.yaml.');
        const cards = items.map((dataset) =>
          section({
            title: dataset.name,
            note: `${counted(dataset.liveRows, 'row')}, ${counted(dataset.liveFiles, 'live file')}, ${bytes(dataset.liveBytes)}`,
            read: () => api<FileSizes>(`/v1/datasets/${dataset.name}/file-sizes`, { signal }),
            render: (sizes) =>
              h(
                'div',
                {},
                histogram(sizes),
                h(
                  'p',
                  { class: 'more' },
                  h('a', { href: `#/datasets/${dataset.name}` }, `Schema and snapshots of ${dataset.name}`),
                ),
              ),
            signal,
          }),
        );
        return h('div', {}, cards);
      },
      signal,
    }),
  );
}

function showOne(root: HTMLElement, signal: AbortSignal, name: string): void {
  const path = encodeURIComponent(name);
  root.append(
    section({
      title: name,
      note: 'Number of files by size: as the lander wrote them, and as they are now.',
      read: () => api<FileSizes>(`/v1/datasets/${path}/file-sizes`, { signal }),
      render: histogram,
      everyMs: 10_000,
      signal,
    }),
    section({
      title: 'Partitions',
      note: 'The first 1,000: how far each has landed, and the lander that lands it.',
      read: () => api<PagedList<Partition>>(`/v1/datasets/${path}/partitions?limit=1000`, { signal }),
      render: ({ items }) => renderPartitions(items),
      everyMs: 10_000,
      signal,
    }),
    section({
      title: 'Table',
      read: () => api<Table>(`/v1/tables/${path}`, { signal }),
      render: renderTable,
      everyMs: 10_000,
      signal,
    }),
    section({
      title: 'Snapshots',
      note: 'The newest 50 that are kept.',
      read: () => api<PagedList<TableSnapshot>>(`/v1/tables/${path}/snapshots?limit=50`, { signal }),
      render: ({ items }) => renderSnapshots(items),
      everyMs: 10_000,
      signal,
    }),
  );
}

function histogram(sizes: FileSizes): Node {
  const classes = sizes.landed.map((landed, index) => ({
    label: labelOf(sizes.boundsBytes, index),
    landed,
    small: sizes.small[index] ?? 0,
    compacted: sizes.compacted[index] ?? 0,
  }));
  const used = classes.map(({ landed, small, compacted }) => landed + small + compacted > 0);
  const [first, last] = [used.indexOf(true), used.lastIndexOf(true)];
  if (first < 0) return empty('No files yet', 'They come with the first commit of the lander.');
  const largest = Math.max(...classes.map(({ landed, small, compacted }) => Math.max(landed, small + compacted)));
  return h(
    'div',
    {},
    h(
      'table',
      { class: 'histogram' },
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('th', { scope: 'col' }, 'File size'),
          h('th', { scope: 'col' }, 'As landed'),
          h('th', { scope: 'col' }, 'Now'),
        ),
      ),
      h(
        'tbody',
        {},
        classes.slice(first, last + 1).map(({ label, landed, small, compacted }) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, label),
            h('td', {}, bars([['landed', landed]], largest)),
            h(
              'td',
              {},
              bars(
                [
                  ['small', small],
                  ['compacted', compacted],
                ],
                largest,
              ),
            ),
          ),
        ),
      ),
    ),
    h(
      'p',
      { class: 'legend' },
      h('span', { class: 'key landed' }, `as landed: ${count(sum(sizes.landed))}`),
      h('span', { class: 'key small' }, `now, not compacted yet: ${count(sizes.smallFiles)}`),
      h('span', { class: 'key compacted' }, `now, compacted: ${count(sizes.compactedFiles)}`),
    ),
  );
}

function bars(parts: readonly (readonly [kind: string, files: number])[], largest: number): Node {
  const files = sum(parts.map(([, part]) => part));
  return h(
    'div',
    { class: 'bars' },
    parts.map(([kind, part]) => {
      const bar = h('span', { class: `bar ${kind}` });
      bar.style.width = `${(part / largest) * 70}%`;
      return bar;
    }),
    h('span', { class: 'bar-label' }, files === 0 ? '' : count(files)),
  );
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
const round = (size: number): string => bytes(size).replace('.0 ', ' ');

function labelOf(bounds: readonly number[], index: number): string {
  const [from, to] = [bounds[index - 1], bounds[index]];
  if (to === undefined) return `above ${round(from ?? 0)}`;
  return from === undefined ? `up to ${round(to)}` : `${round(from)} – ${round(to)}`;
}

function renderTable(state: Table): Node {
  return h(
    'div',
    {},
    facts([
      ['Location', state.location],
      ['Table id', state.uuid],
      ['Current snapshot', state.snapshotId ?? 'none'],
      ['Changed', moment(state.updatedMs)],
      [
        'Sorted by',
        state.sort.map(({ field, direction }) => (direction === 'asc' ? field : `${field} descending`)).join(', '),
      ],
    ]),
    table(
      'Schema',
      [
        { title: 'Id', cell: ({ id }) => String(id), number: true },
        { title: 'Column', cell: ({ name }) => h('code', {}, name) },
        { title: 'Type', cell: ({ type }) => type },
        { title: 'Required', cell: ({ required }) => (required ? 'yes' : 'no') },
      ],
      state.fields,
    ),
  );
}

function renderPartitions(partitions: readonly Partition[]): Node {
  if (partitions.length === 0) return empty('No topic yet', 'A lander makes it, or the first agent that sends to it.');
  return table(
    'Partitions',
    [
      { title: 'Partition', cell: ({ partition }) => String(partition), number: true },
      { title: 'End of the log', cell: ({ end }) => count(end), number: true },
      { title: 'Landed up to', cell: ({ landed }) => count(landed), number: true },
      { title: 'Not landed', cell: ({ unlanded }) => count(unlanded), number: true },
      { title: 'Lander', cell: ({ lander }) => (lander === null ? 'none' : `process ${lander.pid} on ${lander.host}`) },
    ],
    partitions,
  );
}

function renderSnapshots(snapshots: readonly TableSnapshot[]): Node {
  if (snapshots.length === 0) return empty('No snapshot yet', 'The first one comes with the first commit.');
  const figure =
    (key: string): ((snapshot: TableSnapshot) => string) =>
    ({ summary }) =>
      count(Number(summary[key] ?? 0));
  return table(
    'Snapshots',
    [
      { title: 'Time', cell: ({ atMs }) => moment(atMs) },
      { title: 'Operation', cell: ({ operation }) => operation },
      { title: 'Files added', cell: figure('added-data-files'), number: true },
      { title: 'Files removed', cell: figure('deleted-data-files'), number: true },
      { title: 'Rows added', cell: figure('added-records'), number: true },
      { title: 'Rows in all', cell: figure('total-records'), number: true },
      { title: 'Snapshot', cell: ({ id }) => h('code', {}, id) },
    ],
    snapshots,
  );
}
