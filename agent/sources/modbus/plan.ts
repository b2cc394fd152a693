/** Which requests read the registers of a group: neighbours together, as far as the protocol and the device take it. */
import {
  BITS_PER_READ_MAX,
  isBitTable,
  typeOf,
  wordsOf,
  type GroupConfig,
  type ModbusSourceConfig,
  type RegisterConfig,
} from './config.ts';
import type { ReadRequest } from './frame.ts';

/** One field of the reading. */
export interface Item {
  readonly name: string;
  readonly table: RegisterConfig['table'];
  readonly address: number;
  /** Addresses: registers, or one bit. */
  readonly count: number;
  readonly type: NonNullable<RegisterConfig['type']>;
  readonly length: number;
  readonly bit: number;
  readonly scale: number | undefined;
  readonly offset: number | undefined;
  readonly byteOrder: 'big' | 'little';
  readonly wordOrder: 'big' | 'little';
}

/** One request, and what is in its answer, by address. */
export interface Span extends ReadRequest {
  readonly items: readonly Item[];
}

export function itemsOf(source: ModbusSourceConfig, group: GroupConfig): readonly Item[] {
  return group.registers.map((register) => ({
    name: register.name,
    table: register.table,
    address: register.address,
    count: wordsOf(register),
    type: typeOf(register),
    length: register.length ?? 0,
    bit: register.bit ?? 0,
    scale: register.scale,
    offset: register.offset,
    byteOrder: register.byteOrder ?? source.byteOrder,
    wordOrder: register.wordOrder ?? source.wordOrder,
  }));
}

export function planReads(
  items: readonly Item[],
  unit: number,
  { mergeGap, maxRegisters }: Pick<ModbusSourceConfig, 'mergeGap' | 'maxRegisters'>,
): Span[] {
  const spans: Span[] = [];
  for (const ofTable of Map.groupBy(items, ({ table }) => table).values()) {
    let together: Item[] = [];
    for (const item of ofTable.toSorted((a, b) => a.address - b.address)) {
      const { address, count } = spanOf(unit, [...together, item]);
      const countMax = isBitTable(item.table) ? BITS_PER_READ_MAX : maxRegisters;
      const gap = together.length === 0 ? 0 : item.address - endOf(address, together);
      if (together.length > 0 && (gap > mergeGap || count > countMax)) {
        spans.push(spanOf(unit, together));
        together = [];
      }
      together.push(item);
    }
    spans.push(spanOf(unit, together));
  }
  return spans;
}

/** Two requests for what one asked; null when it asks for one item only. */
export function halves({ unit, items }: Span): readonly [Span, Span] | null {
  const middle = Math.ceil(items.length / 2);
  return items.length < 2 ? null : [spanOf(unit, items.slice(0, middle)), spanOf(unit, items.slice(middle))];
}

/** `items` are in the order of their addresses, and not none. */
function spanOf(unit: number, items: readonly Item[]): Span {
  const { table = 'holding', address = 0 } = items[0] ?? {};
  return { unit, table, address, count: endOf(address, items) - address, items };
}

function endOf(address: number, items: readonly Item[]): number {
  return items.reduce((end, item) => Math.max(end, item.address + item.count), address);
}
