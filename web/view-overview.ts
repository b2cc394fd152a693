/** The pipeline at a glance: edge, log, lake, compacted files, mounts; live rates; what waits, dataset by dataset. */
import { api, type Dataset, type History, type Overview } from './api.ts';
import { h } from './dom.ts';
import { bytes, count, counted, duration, perSecond } from './format.ts';
import { empty, every, section, table, type View } from './parts.ts';
import { plot } from './plot.ts';

const EVERY_MS = 2000;
/** A lander commits every minute by default: five of them missed is worth a look, an hour is an alarm. */
const LATE_SECONDS = 300;
const VERY_LATE_SECONDS = 3600;

export const overview: View = {
  show(root, signal) {
    root.append(
      section({
        title: 'Pipeline',
        read: () => api<Overview>('/v1/overview', { signal }),
        render: renderStages,
        everyMs: EVERY_MS,
        signal,
      }),
      renderPlots(signal),
      section({
        title: 'Datasets',
        read: () => api<Overview>('/v1/overview', { signal }),
        render: renderDatasets,
        everyMs: EVERY_MS,
        signal,
      }),
    );
  },
};

interface Stage {
  readonly name: string;
  readonly figure: string;
  readonly unit: string;
  readonly lines: readonly (readonly [name: string, value: string])[];
  readonly level?: string;
}

function renderStages(state: Overview): Node {
  return h(
    'ol',
    { class: 'stages' },
    stagesOf(state).map((stage) =>
      h(
        'li',
        { class: stage.level === undefined ? 'stage' : `stage ${stage.level}` },
        h('h3', {}, stage.name),
        h('p', { class: 'figure' }, stage.figure, ' ', h('span', { class: 'unit' }, stage.unit)),
        h(
          'dl',
          {},
          stage.lines.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))),
        ),
      ),
    ),
  );
}

function stagesOf(state: Overview): Stage[] {
  const sum = (pick: (dataset: Dataset) => number): number =>
    state.datasets.reduce((total, dataset) => total + pick(dataset), 0);
  const oldest = oldestSeconds(state);
  const mounts = state.sessions?.['mount'];
  const { agents } = state;
  return [
    {
      name: 'Edge',
      figure: perSecond(state.appendedPerSecond).replace('/s', ''),
      unit: 'readings/s',
      lines: [
        ['agents', agents === null ? 'unknown' : count(agents.total)],
        ['of these late', agents === null ? 'unknown' : count(agents.late)],
      ],
    },
    {
      name: 'Log',
      figure: count(sum((dataset) => dataset.unlanded)),
      unit: 'not landed',
      lines: [
        ['oldest waits', oldest === null ? 'nothing waits' : duration(oldest)],
        ['received', count(sum((dataset) => dataset.appended))],
      ],
      level: levelOf(oldest),
    },
    {
      name: 'Landed',
      figure: count(sum((dataset) => dataset.landed)),
      unit: 'records',
      lines: [
        ['rate', perSecond(state.landedPerSecond)],
        ['quarantined', count(sum((dataset) => dataset.quarantined))],
        ['lost', count(sum((dataset) => dataset.lost))],
      ],
    },
    {
      name: 'Compacted',
      figure: count(sum((dataset) => dataset.liveFiles)),
      unit: 'live files',
      lines: [
        [
          'landed as',
          counted(
            sum((dataset) => dataset.landedFiles),
            'file',
          ),
        ],
        ['live', bytes(sum((dataset) => dataset.liveBytes ?? 0))],
      ],
    },
    {
      name: 'Mounted',
      figure: mounts === undefined ? (state.sessions === null ? '–' : '0') : count(mounts),
      unit: mounts === 1 ? 'mount' : 'mounts',
      lines: [
        ['volume', state.volume],
        ['rows', count(sum((dataset) => dataset.liveRows))],
      ],
    },
  ];
}

function oldestSeconds(state: Overview): number | null {
  const times = state.datasets.flatMap(({ oldestUnlandedMs }) => (oldestUnlandedMs === null ? [] : [oldestUnlandedMs]));
  return times.length === 0 ? null : Math.max(0, (state.nowMs - Math.min(...times)) / 1000);
}

function levelOf(seconds: number | null): string {
  if (seconds === null || seconds < LATE_SECONDS) return '';
  return seconds < VERY_LATE_SECONDS ? 'warn' : 'bad';
}

function renderPlots(signal: AbortSignal): HTMLElement {
  const rates = plot({
    label: 'Readings per second into the log and into the lake, the last half hour',
    lines: [
      { label: 'into the log', color: '--series-1' },
      { label: 'landed', color: '--series-2' },
    ],
    format: perSecond,
    signal,
  });
  const ages = plot({
    label: 'Age of the oldest reading that has not landed, the last half hour',
    lines: [{ label: 'oldest unlanded', color: '--series-3' }],
    format: duration,
    signal,
  });
  every(EVERY_MS, signal, async () => {
    try {
      const history = await api<History>('/v1/overview/history', { signal });
      rates.set(history.atMs, [history.appendedPerSecond, history.landedPerSecond]);
      ages.set(history.atMs, [history.oldestUnlandedSeconds]);
    } catch {
      // The section above says what is wrong; the lines stay as they were.
    }
  });
  return h(
    'div',
    { class: 'columns' },
    h('section', {}, h('div', { class: 'section-head' }, h('h2', {}, 'Readings per second')), rates.element),
    h('section', {}, h('div', { class: 'section-head' }, h('h2', {}, 'Oldest reading not landed')), ages.element),
  );
}

function renderDatasets(state: Overview): Node {
  if (state.atMs === null) return empty('No figures yet', 'The first ones come when engine, store and log answer.');
  return table(
    'Datasets',
    [
      { title: 'Dataset', cell: ({ name }) => h('a', { href: `#/datasets/${name}` }, name) },
      { title: 'Landed', cell: ({ landed }) => count(landed), number: true },
      { title: 'Waiting', cell: ({ unlanded }) => count(unlanded), number: true },
      {
        title: 'Oldest',
        cell: ({ oldestUnlandedMs }) =>
          oldestUnlandedMs === null ? '–' : duration(Math.max(0, state.nowMs - oldestUnlandedMs) / 1000),
        number: true,
      },
      { title: 'Files landed', cell: ({ landedFiles }) => count(landedFiles), number: true },
      { title: 'Files live', cell: ({ liveFiles }) => count(liveFiles), number: true },
      { title: 'Bytes live', cell: ({ liveBytes }) => bytes(liveBytes), number: true },
      { title: 'Duplicates', cell: ({ duplicates }) => count(duplicates), number: true },
      {
        title: 'Quarantined',
        cell: ({ name, quarantined }) =>
          quarantined === 0 ? '0' : h('a', { href: `#/quarantine/${name}` }, count(quarantined)),
        number: true,
      },
    ],
    state.datasets,
  );
}
