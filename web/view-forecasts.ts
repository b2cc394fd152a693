/** What the datasets will need, with the error that the last forecast had, and what follows. */
import { api, type Forecasts } from './api.ts';
import { h } from './dom.ts';
import { bytes, count, day, seconds } from './format.ts';
import { plot } from './plot.ts';
import { empty, section, type View } from './parts.ts';

const DAY_MS = 86_400_000;
const EVERY_MS = 60_000;

const MEASURES = [
  { measure: 'rows', title: 'Rows landed a day', format: count },
  { measure: 'bytesWritten', title: 'Bytes written a day', format: bytes },
  { measure: 'cpuSeconds', title: 'CPU a day', format: seconds },
] as const;

export const forecasts: View = {
  show(root, signal) {
    for (const { measure, title, format } of MEASURES) {
      root.append(
        section({
          title,
          note: 'The next four weeks. Nine of ten days are meant to fall into the band.',
          // What follows stands once, above the first.
          read: () => api<Forecasts>(`/v1/forecasts?measure=${measure}&advice=${measure === 'rows'}`, { signal }),
          render: (answer) => h('div', {}, renderAdvice(answer.advice), renderItems(answer, format, signal)),
          everyMs: EVERY_MS,
          signal,
        }),
      );
    }
  },
};

function renderAdvice(advice: Forecasts['advice']): HTMLElement | null {
  if (advice === null || advice.length === 0) return null;
  return h(
    'ul',
    { class: 'advice' },
    advice.map(({ kind, text }) => h('li', {}, h('strong', {}, kind === 'buy' ? 'Buy: ' : 'Switch off? '), text)),
  );
}

function renderItems({ items }: Forecasts, format: (value: number) => string, signal: AbortSignal): Node {
  if (items.every(({ forecast }) => forecast === null)) {
    return empty('No forecast yet', items[0]?.reason ?? 'There is no dataset.');
  }
  return h(
    'div',
    {},
    items.map((item) => h('div', {}, h('h3', {}, item.dataset), renderItem(item, format, signal))),
  );
}

function renderItem(item: Forecasts['items'][number], format: (value: number) => string, signal: AbortSignal): Node {
  const { forecast, history, historyStartMs, heldOut, reason } = item;
  if (forecast === null) return h('p', {}, `No forecast yet: ${reason ?? ''}.`);
  const before = history.map(() => null);
  const after = forecast.point.map(() => null);
  const chart = plot({
    label: `${item.dataset}, a day, and its forecast`,
    lines: [
      { label: 'so far', color: '--series-1' },
      { label: 'forecast', color: '--series-3' },
      { label: 'at most', color: '--series-3', isEdge: true },
      { label: 'at least', color: '--series-3', isEdge: true },
    ],
    format,
    formatTime: day,
    signal,
  });
  chart.set(
    [...history, ...forecast.point].map((_, at) => historyStartMs + at * DAY_MS),
    [
      [...history, ...after],
      [...before, ...forecast.point],
      [...before, ...forecast.upper],
      [...before, ...forecast.lower],
    ],
  );
  return h('div', {}, chart.element, h('p', { class: 'quiet' }, errorText(heldOut)));
}

function errorText(heldOut: Forecasts['items'][number]['heldOut']): string {
  if (heldOut === null) return 'Too few days to say how far a forecast would have been off.';
  const { days, errorPercent, naiveErrorPercent, insideBand } = heldOut;
  if (errorPercent === null) return `Nothing happened in the last ${days} days.`;
  return (
    `A forecast made ${days} days ago was off by ${errorPercent} % of what came ` +
    `(the same day of the week before: ${naiveErrorPercent ?? '?'} %); ${Math.round(insideBand * days)} of ${days} days fell into its band.`
  );
}
