import { describe, expect, it } from 'vitest';
import { assertEvolution, evolveSchema, fieldsOf, maxFieldId, newSchema } from '../../lib/table/schema.ts';
import type { Schema } from '../../lib/table/schema.ts';

const schema = newSchema([
  { name: 'a', type: 'int' },
  { name: 'where', type: { struct: [{ name: 'lat', type: 'float' }] } },
  { name: 'tags', type: { list: 'string' } },
  { name: 'more', type: { map: { key: 'string', value: 'decimal(9, 2)' } } },
  { name: 't', type: 'timestamptz', required: true },
]);

function change(name: string, patch: object): Schema {
  return { ...schema, fields: schema.fields.map((field) => (field.name === name ? { ...field, ...patch } : field)) };
}

it('ids are given level by level and once each', () => {
  expect([...fieldsOf(schema)].map(({ path, field }) => [path, field.id])).toEqual([
    ['a', 1],
    ['where', 2],
    ['where.lat', 6],
    ['tags', 3],
    ['tags.element', 7],
    ['more', 4],
    ['more.key', 8],
    ['more.value', 9],
    ['t', 5],
  ]);
  expect(maxFieldId(schema)).toBe(9);
});

it('types that do not exist and names that are there twice are refused', () => {
  expect(() => newSchema([{ name: 'a', type: 'int128' }])).toThrow(/a: 'int128'/);
  expect(() => newSchema([{ name: 'a', type: 'decimal(39, 2)' }])).toThrow(/decimal/);
  expect(() =>
    newSchema([
      { name: 'a', type: 'int' },
      { name: 'a', type: 'int' },
    ]),
  ).toThrow(/a is twice/);
});

describe('evolution', () => {
  it('takes what old files can be read with', () => {
    const evolved = evolveSchema(schema, { add: [{ name: 'n', type: { list: 'long' } }], widen: { a: 'long' } }, 9);
    expect(evolved.fields.at(-1)).toMatchObject({ id: 10, type: { 'element-id': 11 } });
    expect(() => assertEvolution(schema, change('t', { required: false }), 9)).not.toThrow();
    expect(() => assertEvolution(schema, change('a', { name: 'renamed' }), 9)).not.toThrow();
    expect(() => assertEvolution(schema, { ...schema, fields: schema.fields.slice(1) }, 9)).not.toThrow();
    const struct = {
      id: 10,
      name: 's',
      required: false,
      type: { type: 'struct', fields: [{ id: 11, name: 'x', required: true, type: 'int' }] },
    } as const;
    expect(() => assertEvolution(schema, { ...schema, fields: [...schema.fields, struct] }, 9)).not.toThrow();
  });

  it.each([
    ['a narrower type', change('a', { type: 'boolean' }), /a: int cannot become boolean/],
    ['string from int', change('a', { type: 'string' }), /a: int cannot become string/],
    ['another kind', change('tags', { type: 'string' }), /tags: list cannot become string/],
    ['required from optional', change('a', { required: true }), /a: an optional field/],
    [
      'a new required field',
      { ...schema, fields: [...schema.fields, { id: 10, name: 'n', required: true, type: 'int' }] },
      /n: a new field must be optional/,
    ],
    [
      'an id that was used',
      { ...schema, fields: [...schema.fields, { id: 9, name: 'n', required: false, type: 'int' }] },
      /field id 9/,
    ],
    [
      'a change of scale',
      change('more', {
        type: {
          type: 'map',
          'key-id': 8,
          key: 'string',
          'value-id': 9,
          'value-required': false,
          value: 'decimal(9, 3)',
        },
      }),
      /more.value/,
    ],
  ])('refuses %s', (_, to, message) => {
    expect(() => assertEvolution(schema, to, 9)).toThrow(message);
  });

  it('refuses an id that belonged to a dropped field', () => {
    const dropped = { ...schema, fields: schema.fields.filter((field) => field.name !== 'a') };
    const again = { ...dropped, fields: [...dropped.fields, { id: 1, name: 'z', required: false, type: 'string' }] };
    expect(() => assertEvolution(dropped, again, 9)).toThrow(/id 1 belonged/);
  });
});
