/** Which data trained which model: snapshots, the jobs that read them, and what those made, as a graph and as a list. */
import { api, type Dataset, type LineageUse, type PagedList } from './api.ts';
import { h } from './dom.ts';
import { counted, moment } from './format.ts';
import { empty, section, table, type View } from './parts.ts';

const EVERY_MS = 10_000;
/** Of a dataset, the newest; the API and `penstock ctl lineage list` have all. */
const USES_SHOWN = 50;
const BOX = { width: 230, height: 40, gapX: 70, gapY: 12 };
const SVG = 'http://www.w3.org/2000/svg';

export const lineage: View = {
  show(root, signal) {
    root.append(
      section({
        title: 'Lineage',
        note: 'From the snapshot of a dataset to the job that read it and the model it made; the newest uses.',
        read: () => readUses(signal),
        render: (uses) =>
          uses.length === 0
            ? empty(
                'No use is recorded',
                'penstock lineage record, or the environment of a job, says what a job has read.',
              )
            : h('div', {}, graph(uses), list(uses)),
        everyMs: EVERY_MS,
        signal,
      }),
    );
  },
};

async function readUses(signal: AbortSignal): Promise<readonly LineageUse[]> {
  const { items } = await api<PagedList<Dataset>>('/v1/datasets?limit=1000', { signal });
  const lists = await Promise.all(
    items.map(({ name }) =>
      api<PagedList<LineageUse>>(`/v1/lineage?dataset=${encodeURIComponent(name)}&limit=${USES_SHOWN}`, { signal }),
    ),
  );
  return lists.flatMap((found) => found.items).sort((a, b) => b.recordedMs - a.recordedMs);
}

function list(uses: readonly LineageUse[]): HTMLElement {
  return table(
    'Uses',
    [
      {
        title: 'Dataset',
        cell: ({ dataset }) => h('a', { href: `#/datasets/${encodeURIComponent(dataset)}` }, dataset),
      },
      { title: 'Snapshot', cell: ({ snapshotId }) => h('code', {}, snapshotId) },
      { title: 'Job', cell: ({ job }) => job },
      { title: 'Model', cell: ({ model }) => model ?? '' },
      { title: 'Recorded', cell: ({ recordedMs, recordedBy }) => `${moment(recordedMs)} by ${recordedBy}`, wide: true },
    ],
    uses,
  );
}

interface Box {
  readonly title: string;
  readonly detail: string;
  readonly x: number;
  readonly y: number;
}

/** The list says the same: to a reader of screens this is one picture. */
function graph(uses: readonly LineageUse[]): HTMLElement {
  const columns = [new Map<string, Box>(), new Map<string, Box>(), new Map<string, Box>()] as const;
  const boxOf = (column: 0 | 1 | 2, title: string, detail: string): Box => {
    const boxes = columns[column];
    const known = boxes.get(`${title} ${detail}`);
    if (known !== undefined) return known;
    const [x, y] = [column * (BOX.width + BOX.gapX), boxes.size * (BOX.height + BOX.gapY)];
    const box = { title, detail, x: x + 1, y: y + 1 };
    boxes.set(`${title} ${detail}`, box);
    return box;
  };
  const lines = new Map<string, SVGElement>();
  const join = (from: Box, to: Box): void => {
    const [startX, startY, endX, endY] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
    const d = `M ${startX} ${startY} C ${startX + BOX.gapX / 2} ${startY} ${endX - BOX.gapX / 2} ${endY} ${endX} ${endY}`;
    lines.set(d, svg('path', { d }));
  };
  for (const { dataset, snapshotId, job, model } of uses) {
    const [data, work] = [boxOf(0, dataset, snapshotId), boxOf(1, job, 'job')];
    join(data, work);
    if (model !== null) join(work, boxOf(2, model, 'model'));
  }
  const rows = Math.max(...columns.map(({ size }) => size));
  const width = 3 * BOX.width + 2 * BOX.gapX + 2;
  const height = rows * (BOX.height + BOX.gapY);
  const label = `${counted(columns[0].size, 'snapshot')}, ${counted(columns[1].size, 'job')}, ${counted(columns[2].size, 'model')}; the list below says how they hang together`;
  const picture = svg(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, width, height, class: 'lineage', role: 'img', 'aria-label': label },
    ...lines.values(),
    ...columns.flatMap((boxes) => [...boxes.values()].map(draw)),
  );
  const scroll = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Graph' });
  scroll.append(picture);
  return scroll;
}

function draw({ title, detail, x, y }: Box): SVGElement {
  const { width, height } = BOX;
  const whole = svg('title', {});
  whole.textContent = `${title} ${detail}`;
  const name = svg('text', { x: x + 10, y: y + 17 });
  name.textContent = shortened(title);
  const below = svg('text', { x: x + 10, y: y + 32, class: 'quiet' });
  below.textContent = detail;
  return svg('g', {}, svg('rect', { x, y, width, height, rx: 4 }), whole, name, below);
}

/** What fits into a box; the whole is its title. */
const shortened = (text: string): string => (text.length > 30 ? `${text.slice(0, 29)}…` : text);

function svg(
  tag: string,
  attributes: Readonly<Record<string, string | number>>,
  ...children: SVGElement[]
): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}
