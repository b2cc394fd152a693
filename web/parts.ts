/** What every view is made of: sections that load, tables with aligned numbers, and the three states besides data. */
import { ApiError, type PagedList } from './api.ts';
import { h, replace } from './dom.ts';

export interface View {
  /** Builds the view into `root` and keeps it fresh until `signal` fires. */
  show(root: HTMLElement, signal: AbortSignal): void;
}

interface Column<T> {
  readonly title: string;
  readonly cell: (item: T) => Node | string;
  /** Numbers stand right-aligned with tabular figures. */
  readonly number?: true;
  /** Long text that may break. */
  readonly wide?: true;
}

export function table<T>(label: string, columns: readonly Column<T>[], items: readonly T[]): HTMLElement {
  // On a phone the rows become blocks, where text that breaks would else make them a screen high.
  const stacks = columns.some(({ wide }) => wide === true);
  const kind = (column: Column<T>): string =>
    column.number === true ? 'number' : column.wide === true ? 'wide' : 'text';
  return h(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': label },
    h(
      'table',
      stacks ? { class: 'stack' } : {},
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          columns.map((column) => h('th', { scope: 'col', class: kind(column) }, column.title)),
        ),
      ),
      h(
        'tbody',
        {},
        items.map((item) =>
          h(
            'tr',
            {},
            columns.map((column) => h('td', { class: kind(column), 'data-title': column.title }, column.cell(item))),
          ),
        ),
      ),
    ),
  );
}

/** A list whose further pages come at a button. `read` takes a cursor that is ready for an address. */
export function pages<T>(
  first: PagedList<T>,
  moreTitle: string,
  draw: (items: readonly T[]) => HTMLElement,
  read: (cursor: string) => Promise<PagedList<T>>,
): HTMLElement {
  const shown = h('div', {}, draw(first.items));
  let cursor = first.nextCursor;
  const more = h('button', { type: 'button', hidden: cursor === null }, moreTitle);
  const readMore = async (): Promise<void> => {
    more.disabled = true;
    try {
      const page = await read(encodeURIComponent(cursor ?? ''));
      shown.append(draw(page.items));
      cursor = page.nextCursor;
      more.hidden = cursor === null;
    } finally {
      more.disabled = false;
    }
  };
  more.addEventListener('click', () => void readMore());
  return h('div', {}, shown, h('p', { class: 'more' }, more));
}

/** Names and values, one a line. */
export function facts(entries: readonly (readonly [name: string, value: Node | string])[]): HTMLElement {
  return h(
    'dl',
    { class: 'facts' },
    entries.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]),
  );
}

export const empty = (title: string, hint: string): HTMLElement =>
  h('div', { class: 'state' }, h('p', { class: 'state-title' }, title), h('p', {}, hint));
export const loading = (): HTMLElement => h('div', { class: 'state loading', role: 'status' }, 'Reading …');

function failed(error: unknown, retry: () => void): HTMLElement {
  const message = error instanceof Error ? error.message : String(error);
  return h(
    'div',
    { class: 'state bad', role: 'alert' },
    h('p', { class: 'state-title' }, 'This could not be read'),
    h('p', {}, message),
    h('button', { type: 'button', on: { click: retry } }, 'Try again'),
  );
}

/** Fired on window when the server asks for a token. */
export const NEEDS_TOKEN = 'penstock-needs-token';

/**
 * A part of a page that reads something and shows it, again every `everyMs`. What was shown stays while it is read again; a failure
 * after that keeps the last content and says so above it.
 */
export function section<T>(options: {
  readonly title: string;
  readonly note?: string;
  readonly read: (signal: AbortSignal) => Promise<T>;
  readonly render: (value: T) => Node;
  readonly signal: AbortSignal;
  readonly everyMs?: number;
}): HTMLElement {
  const body = h('div', { class: 'section-body' }, loading());
  const stale = h('p', { class: 'stale', hidden: true });
  let shown = false;
  let before = '';
  const refresh = async (): Promise<void> => {
    try {
      const value = await options.read(options.signal);
      stale.hidden = true;
      // The same answer draws nothing: a selection or a scroll position in the section stays.
      const now = JSON.stringify(value);
      if (shown && now === before) return;
      before = now;
      shown = true;
      const focused = body.contains(document.activeElement) ? document.activeElement?.id : undefined;
      replace(body, options.render(value));
      // Who works by keyboard stays where he was.
      if (focused !== undefined && focused !== '') document.getElementById(focused)?.focus();
    } catch (error) {
      if (options.signal.aborted) return;
      if (error instanceof ApiError && error.status === 401) window.dispatchEvent(new Event(NEEDS_TOKEN));
      if (!shown) {
        replace(
          body,
          failed(error, () => {
            replace(body, loading());
            void refresh();
          }),
        );
      } else {
        stale.textContent = `Not up to date: ${error instanceof Error ? error.message : String(error)}`;
        stale.hidden = false;
      }
    }
  };
  if (options.everyMs === undefined) void refresh();
  else every(options.everyMs, options.signal, refresh);
  return h(
    'section',
    {},
    h(
      'div',
      { class: 'section-head' },
      h('h2', {}, options.title),
      options.note === undefined ? null : h('p', {}, options.note),
    ),
    stale,
    body,
  );
}

/** At once and then again `everyMs` after each end, while the page is visible. */
export function every(everyMs: number, signal: AbortSignal, work: () => Promise<void>): void {
  let timer = 0;
  const next = async (): Promise<void> => {
    window.clearTimeout(timer);
    if (signal.aborted) return;
    // Behind the question for a token everything would be refused.
    if (!document.hidden && document.querySelector('dialog[open]') === null) await work();
    timer = window.setTimeout(() => void next(), everyMs);
  };
  document.addEventListener('visibilitychange', () => void (document.hidden ? undefined : next()), { signal });
  signal.addEventListener('abort', () => window.clearTimeout(timer));
  void next();
}
