/** Live lines by uPlot, in the page's own colours, redrawn when the size or the colour scheme changes. */
import uPlot from 'uplot';
import { h } from './dom.ts';
import { timeOfDay } from './format.ts';

export interface Line {
  readonly label: string;
  /** A custom property of style.css. */
  readonly color: string;
  /** Only the edge of the band: no line of its own. */
  readonly isEdge?: true;
}

export interface Plot {
  readonly element: HTMLElement;
  /** Times in milliseconds; one array of values a line. */
  set(atMs: readonly number[], values: readonly (readonly (number | null)[])[]): void;
}

const HEIGHT = 180;

export function plot(options: {
  readonly label: string;
  readonly lines: readonly Line[];
  readonly format: (value: number) => string;
  /** How a moment is written; the time of the day when it is left out. */
  readonly formatTime?: (atMs: number) => string;
  readonly signal: AbortSignal;
}): Plot {
  const element = h('div', { class: 'plot', role: 'img', 'aria-label': options.label });
  let data: uPlot.AlignedData = [[], ...options.lines.map(() => [])];
  let chart: uPlot | undefined;
  const draw = (): void => {
    const width = element.clientWidth;
    if (width === 0) return;
    chart?.destroy();
    chart = new uPlot(chartOptions(width, options), data, element);
  };
  const sizes = new ResizeObserver(() => {
    if (chart === undefined) draw();
    else if (element.clientWidth > 0) chart.setSize({ width: element.clientWidth, height: HEIGHT });
  });
  sizes.observe(element);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw, { signal: options.signal });
  options.signal.addEventListener('abort', () => {
    sizes.disconnect();
    chart?.destroy();
  });
  return {
    element,
    set: (atMs, values) => {
      data = [atMs.map((ms) => ms / 1000), ...values.map((line) => [...line])];
      if (chart === undefined) draw();
      else chart.setData(data);
    },
  };
}

/** Where nobody points, the legend tells the newest values. */
function showNewest(chart: uPlot): void {
  if (chart.cursor.idx == null && chart.data[0].length > 0) chart.setLegend({ idx: chart.data[0].length - 1 }, false);
}

function chartOptions(
  width: number,
  {
    lines,
    format,
    formatTime = timeOfDay,
  }: {
    readonly lines: readonly Line[];
    readonly format: (value: number) => string;
    readonly formatTime?: (atMs: number) => string;
  },
): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const color = (name: string): string => style.getPropertyValue(name).trim();
  const axis: uPlot.Axis = {
    stroke: color('--quiet'),
    grid: { stroke: color('--line'), width: 1 },
    ticks: { show: false },
    font: '12px system-ui, sans-serif',
  };
  // Series 0 are the times.
  const edges = lines.flatMap((line, at) => (line.isEdge === true ? [at + 1] : []));
  const [upper, lower] = edges;
  return {
    width,
    height: HEIGHT,
    ...(upper === undefined || lower === undefined
      ? {}
      : { bands: [{ series: [upper, lower] as [number, number], fill: color('--band') }] }),
    cursor: { y: false, points: { size: 6 } },
    hooks: { setCursor: [showNewest], setData: [showNewest] },
    scales: { y: { range: (_plot, _min, max) => [0, Math.max(1, max * 1.1)] } },
    axes: [
      { ...axis, space: 90, size: 32, values: (_plot, ticks) => ticks.map((at) => formatTime(at * 1000)) },
      { ...axis, size: 70, values: (_plot, ticks) => ticks.map(format) },
    ],
    series: [
      { label: 'at', value: (_plot, at: number | null) => (at === null ? '' : formatTime(at * 1000)) },
      ...lines.map((line) => ({
        label: line.label,
        stroke: color(line.color),
        width: line.isEdge === true ? 0 : 1.5,
        points: { show: false },
        value: (_plot: uPlot, value: number | null) => (value === null ? '' : format(value)),
      })),
    ],
  };
}
