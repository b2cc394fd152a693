/** A box for one SELECT over the lake. Ctrl+Enter runs it. */
import { api, ApiError, type Dataset, type PagedList, type SqlAnswer } from './api.ts';
import { h, replace } from './dom.ts';
import { counted, duration } from './format.ts';
import { empty, NEEDS_TOKEN, table, type View } from './parts.ts';

const NUMBER = /^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL.*|U(TINY|SMALL|BIG)INT)$/;
/** Kept over a change of the view. */
let text = '';

export const sql: View = {
  show(root, signal) {
    const box = h('textarea', {
      id: 'sql',
      rows: 6,
      spellcheck: 'false',
      autocapitalize: 'off',
      'aria-describedby': 'sql-hint',
    });
    box.value = text;
    const result = h(
      'div',
      { class: 'section-body', 'aria-live': 'polite' },
      empty('No query yet', 'Results are cut off after 1,000 rows, queries after 30 s.'),
    );
    const button = h('button', { type: 'submit', class: 'primary' }, 'Run');
    const run = async (): Promise<void> => {
      text = box.value;
      if (text.trim() === '' || button.disabled) return;
      button.disabled = true;
      replace(result, h('div', { class: 'state loading', role: 'status' }, 'Running …'));
      try {
        replace(result, renderAnswer(await api<SqlAnswer>('/v1/sql', { body: { sql: text, rows: 1000 }, signal })));
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && error.status === 401) window.dispatchEvent(new Event(NEEDS_TOKEN));
        replace(
          result,
          h(
            'div',
            { class: 'state bad', role: 'alert' },
            h('p', { class: 'state-title' }, 'The query failed'),
            h('pre', {}, error instanceof Error ? error.message : String(error)),
          ),
        );
      } finally {
        button.disabled = false;
      }
    };
    const form = h(
      'form',
      {
        class: 'query',
        on: {
          submit: (event) => {
            event.preventDefault();
            void run();
          },
        },
      },
      h('label', { for: 'sql' }, 'One SELECT over the lake'),
      box,
      h(
        'div',
        { class: 'query-foot' },
        button,
        h('p', { id: 'sql-hint' }, h('kbd', {}, 'Ctrl'), ' + ', h('kbd', {}, 'Enter'), ' runs it. Read only.'),
      ),
    );
    box.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        void run();
      }
    });
    root.append(
      h('section', {}, h('div', { class: 'section-head' }, h('h2', {}, 'SQL')), form),
      h('section', {}, result),
    );
    void suggest(box, signal);
  },
};

/** A first query that works here. */
async function suggest(box: HTMLTextAreaElement, signal: AbortSignal): Promise<void> {
  if (isFilled(box)) return;
  const datasets = await api<PagedList<Dataset>>('/v1/datasets', { signal }).catch(() => null);
  const first = datasets?.items.toSorted((a, b) => b.liveRows - a.liveRows)[0];
  if (first === undefined || isFilled(box)) return;
  const name = first.name
    .split('.')
    .map((part) => (/^[a-z_][a-z0-9_]*$/i.test(part) ? part : `"${part}"`))
    .join('.');
  box.value = `SELECT date_trunc('minute', _event_time) AS minute, count(*) AS rows\nFROM ${name}\nGROUP BY minute\nORDER BY minute DESC\nLIMIT 20`;
}

const isFilled = (box: HTMLTextAreaElement): boolean => box.value !== '';

function renderAnswer(answer: SqlAnswer): Node {
  const rows = counted(answer.rows.length, 'row');
  const note = h(
    'p',
    { class: 'note' },
    `${rows}${answer.truncated ? ', cut off: there are more' : ''} in ${duration(answer.seconds)}`,
  );
  if (answer.rows.length === 0) return h('div', {}, note, empty('No rows', 'The query is right and found nothing.'));
  const columns = answer.columns.map(({ name, type }, index) => ({
    title: name,
    cell: (row: readonly unknown[]) => show(row[index]),
    ...(NUMBER.test(type) ? { number: true as const } : {}),
  }));
  return h('div', {}, note, table('Result', columns, answer.rows));
}

function show(value: unknown): Node | string {
  if (value === null) return h('span', { class: 'null' }, 'null');
  return typeof value === 'string' ? value : JSON.stringify(value);
}
