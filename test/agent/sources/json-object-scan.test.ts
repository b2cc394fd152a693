import fc from 'fast-check';
import { expect, test } from 'vitest';
import { JsonObjectScan, scalarAt } from '../../../agent/sources/json-object-scan.ts';

const scan = new JsonObjectScan();

function parsed(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString('utf8'));
  } catch {
    return undefined;
  }
}

/** What the scan and `JSON.parse` say of the fields `id` and `ts`; undefined: it asks for `JSON.parse`. */
function compare(text: Buffer): { readonly found: unknown; readonly expected: unknown } | undefined {
  const isObject = scan.scan(text, 0, text.length, 'id', 'ts');
  // What stands around it makes no difference.
  const within = Buffer.concat([Buffer.from('{"id"'), text, Buffer.from('"}}e0 ')]);
  expect(new JsonObjectScan().scan(within, 5, 5 + text.length, 'id', 'ts')).toBe(isObject);
  if (!isObject) return undefined;
  const found = [scalarAt(text, scan.first), scalarAt(text, scan.second)];
  const value = parsed(text);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { found, expected: value };
  const expected = ['id', 'ts'].map((name) => {
    const field = Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined;
    return typeof field === 'object' && field !== null ? undefined : field;
  });
  return { found, expected };
}

test('finds the fields of every object with plain names, as JSON.parse reads them', () => {
  const name = fc.oneof(fc.constantFrom('id', 'ts', 'i', 'idd', '__proto__', ''), fc.string({ maxLength: 5 }));
  const plain = /^[ !#-[\]-\x7e]*$/;
  const object = fc.dictionary(
    name.filter((text) => plain.test(text)),
    fc.jsonValue({ maxDepth: 4 }),
    { noNullPrototype: false },
  );
  fc.assert(
    fc.property(object, fc.constantFrom(undefined, 1, '\t', '\r\n '), (value, indent) => {
      const result = compare(Buffer.from(JSON.stringify(value, null, indent)));
      expect(result).toBeDefined();
      expect(result?.found).toEqual(result?.expected);
    }),
    { numRuns: 500 },
  );
});

test('calls nothing an object that JSON.parse refuses, wherever bytes are changed', () => {
  const base = Buffer.from(
    '{"id":"s\\u00e9\\n1","n":-0.5e+3,"ts":1790000000000,"a":[true,false,null,{"b":[]},1e5, ""],"id": 7 }',
  );
  const change = fc.record({
    at: fc.nat(base.length - 1),
    byte: fc.oneof(fc.integer({ min: 0, max: 127 }), fc.constantFrom(...base)),
  });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 4 }), fc.nat(base.length), (changes, cut) => {
      const text = Buffer.from(changes.length % 2 === 0 ? base : base.subarray(0, cut));
      for (const { at, byte } of changes) if (at < text.length) text[at] = byte;
      const result = compare(text);
      if (result !== undefined) expect(result.found).toEqual(result.expected);
    }),
    { numRuns: 5000 },
  );
});

test.each([
  ['{}', [undefined, undefined]],
  ['{"id":"a","id":"b"}', ['b', undefined]],
  ['{"id":{"id":1},"ts":[1]}', [undefined, undefined]],
  [' {"id":"\\u0041\\"","ts":1e3}\r', ['A"', 1000]],
  ['{"ts":123456789012345678,"id":null}', [null, 123456789012345680]],
  ['{"ts":-1,"id":true,"é":1}', undefined],
  ['{"\\u0069d":1}', undefined],
  [`{"a":${'['.repeat(64)}${']'.repeat(64)},"id":1}`, [1, undefined]],
  [`{"a":${'['.repeat(65)}${']'.repeat(65)},"id":1}`, undefined],
  ['[1]', undefined],
  ['{"a":01}', undefined],
  ['{"a":1}x', undefined],
  ['{"a":"\\x"}', undefined],
  ['{"a":"\t"}', undefined],
  ['\uFEFF{"a":1}', undefined],
])('%s', (text, expected) => {
  expect(compare(Buffer.from(text))?.found).toEqual(expected);
});

test('says whether there is more than ASCII', () => {
  const isAscii = (text: string): boolean => {
    expect(scan.scan(Buffer.from(text), 0, Buffer.byteLength(text), null, 'ts')).toBe(true);
    return scan.isAscii;
  };
  expect(isAscii('{"a":"°"}')).toBe(false);
  expect(isAscii('{"a":"\\u00b0"}')).toBe(true);
});
