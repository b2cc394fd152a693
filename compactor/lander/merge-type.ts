/** The type that a table's column takes on so that values of another type fit too, by Iceberg's rules of evolution. */
import {
  type ColumnType,
  type Field,
  type FieldType,
  haveDistinctNames,
  typeWithIds,
  widens,
} from '../../lib/table/schema.ts';
import { typeText } from './scalar-text.ts';

/** `old` where it holds the values of `wanted`, else `old` widened; after `refuse`, if that answers, `old` as it is. */
export function mergeType(
  old: FieldType,
  wanted: ColumnType,
  nextId: () => number,
  refuse: (why: string) => void,
): FieldType {
  if (typeof wanted === 'string') {
    if (typeof old === 'string' && widens(old, wanted)) return normal(old) === normal(wanted) ? old : wanted;
  } else if (typeof old !== 'string') {
    if ('struct' in wanted && old.type === 'struct') {
      const fields = old.fields.map((field): Field => {
        const found = wanted.struct.find((column) => column.name === field.name);
        return found === undefined ? field : { ...field, type: mergeType(field.type, found.type, nextId, refuse) };
      });
      const added = wanted.struct
        .filter((column) => !old.fields.some((field) => field.name === column.name))
        .map(({ name, type }): Field => {
          const id = nextId();
          return { id, name, required: false, type: typeWithIds(type, nextId) };
        });
      if (haveDistinctNames([...fields, ...added])) return { ...old, fields: [...fields, ...added] };
    }
    if ('list' in wanted && old.type === 'list') {
      return { ...old, element: mergeType(old.element, wanted.list, nextId, refuse) };
    }
    if ('map' in wanted && old.type === 'map' && old.key === wanted.map.key) {
      return { ...old, value: mergeType(old.value, wanted.map.value, nextId, refuse) };
    }
  }
  refuse(`the table has ${typeText(old)}, which cannot become ${typeText(wanted)}`);
  return old;
}

const normal = (type: string): string => type.replaceAll(' ', '');
