/**
 * What `penstock ctl` shows to people: a list as a table, an object as its keys and values, lists within it as tables of their own below. The server's
 * document says by `x-columns` (heading -> path within an item) what of a list is worth a column, where that is not all of it.
 */
import { z } from 'zod';
import { oneLine, print, printTable } from '../output.ts';

const MOMENT_MS_MIN = 1e11;
const MOMENT_MS_MAX = 8.64e15;

const itemSchema = z.record(z.string(), z.unknown());
const itemsSchema = z.array(itemSchema).min(1);
const listSchema = z.looseObject({ items: z.array(itemSchema), nextCursor: z.string().nullish() });
const rowsSchema = z.object({ columns: z.array(z.object({ name: z.string() })), rows: z.array(z.array(z.unknown())) });
export const columnsSchema = z.record(z.string(), z.string());

type Item = z.output<typeof itemSchema>;

export function showAnswer(value: unknown, columns: z.output<typeof columnsSchema> | undefined): void {
  const list = listSchema.safeParse(value);
  const rows = rowsSchema.safeParse(value);
  const object = itemSchema.safeParse(value);
  if (list.success) {
    const { items, nextCursor, ...beside } = list.data;
    printTable(
      items.map((item) => readable(columns === undefined ? item : chosen(item, columns))),
      false,
    );
    showLists(listsOf(beside), true);
    if (nextCursor != null) process.stderr.write(`penstock: more with --cursor ${nextCursor}\n`);
  } else if (rows.success) {
    const names = rows.data.columns.map(({ name }) => name);
    printTable(
      rows.data.rows.map((row) => Object.fromEntries(names.map((name, index) => [name, row[index]]))),
      false,
    );
  } else if (object.success) showObject(object.data);
  else process.stdout.write(String(value).split('\n').map(oneLine).join('\n'));
}

function showObject(object: Item): void {
  const lists = listsOf(object);
  const rest = Object.entries(object).filter(([name]) => lists.every((list) => list.name !== name));
  if (rest.length > 0) print(readable(Object.fromEntries(rest)), false);
  showLists(lists, rest.length > 0);
}

interface NamedList {
  readonly name: string;
  readonly items: readonly Item[];
}

function listsOf(object: Item): NamedList[] {
  return Object.entries(object).flatMap(([name, value]) => {
    const items = itemsSchema.safeParse(value);
    return items.success ? [{ name, items: items.data }] : [];
  });
}

/** `below`: there is something above them. */
function showLists(lists: readonly NamedList[], below: boolean): void {
  for (const [index, { name, items }] of lists.entries()) {
    process.stdout.write(`${below || index > 0 ? '\n' : ''}${oneLine(name.toUpperCase())}\n`);
    printTable(items.map(readable), false);
  }
}

function chosen(item: Item, columns: z.output<typeof columnsSchema>): Item {
  return Object.fromEntries(
    Object.entries(columns).map(([heading, path]) => [
      heading,
      path.split('.').reduce<unknown>((at, name) => itemSchema.safeParse(at).data?.[name], item),
    ]),
  );
}

/** Moments as such, fractions to four digits, short lists and tags without their brackets; of a list of objects, how many. */
function readable(item: Item): Item {
  return Object.fromEntries(
    Object.entries(item).map(([name, value]) => {
      if (value === null || value === undefined) return [name, ''];
      if (typeof value === 'number') return [name, numberText(name, value)];
      if (Array.isArray(value)) return [name, value.every(isScalar) ? value.join(', ') : String(value.length)];
      if (typeof value !== 'object') return [name, value];
      const entries = Object.entries(value);
      if (!entries.every(([, part]) => part === null || isScalar(part))) return [name, value];
      return [name, entries.map(([key, part]) => `${key}=${String(part)}`).join(', ')];
    }),
  );
}

const isScalar = (value: unknown): boolean => ['string', 'number', 'boolean'].includes(typeof value);

/** What ends in Ms and is no duration of years are moments, milliseconds since 1970. */
function numberText(name: string, value: number): string {
  if (/Ms$/.test(name) && value > MOMENT_MS_MIN && value < MOMENT_MS_MAX) return new Date(value).toISOString();
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(4)));
}
