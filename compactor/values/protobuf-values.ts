/**
 * Protobuf values by a .proto text of a registry, read at run time (https://protobuf.dev/programming-guides/encoding/).
 *
 * In front of the message stands which of the file's messages it is, as a path of indexes:
 *   zigzag varint count | count zigzag varints          a single 0 stands for the path [0], the first message
 *
 *   double float bool string bytes       the column of that name (bytes: binary)
 *   int32 sint32 sfixed32 int | uint32 fixed32 and all of 64 bits long | enum string (its name, or the number of an unknown one)
 *   message struct | repeated list | map map | google.protobuf.Timestamp timestamptz | wrappers: the optional value in them
 *
 * A field without presence (proto3 without `optional`) that is not on the wire has its default, any other one is null.
 * A field that no column can hold (a message that holds itself, an empty one) is no obstacle to the others: records that have a value
 * in it are refused by name.
 */
import protobuf from 'protobufjs';
import { PenstockError } from '../../lib/errors.ts';
import { type Column, type ColumnType, haveDistinctNames } from '../../lib/table/schema.ts';
import { EpochMicros } from '../lander/event-time.ts';
import type { RegisteredSchema } from './registry.ts';
import type { SchemaDecoder, TypedRecord } from './value-decoder.ts';

/** Files of schemas nest messages a few deep. */
const PATH_MAX = 32;
const FORBIDDEN_NAMES: ReadonlySet<string> = new Set(['__proto__']);

/** One value of a field, without what repeats it. */
interface Part {
  readonly column: ColumnType;
  readonly convert: (value: unknown) => unknown;
}

interface Reader {
  readonly name: string;
  /** null: no column can hold it. */
  readonly column: ColumnType | null;
  /** null: it is not there. */
  readonly read: (message: Record<string, unknown>) => unknown;
}

/** Throws for a text that is no .proto file or has no message. */
export function compileProtobuf({ text, references }: RegisteredSchema): SchemaDecoder {
  const root = new protobuf.Root();
  const { package: packageName } = protobuf.parse(text, root, { keepCase: true });
  // Messages of references may share the package: the indexes count those of this file.
  const scope = packageName === undefined ? root : root.lookup(packageName);
  const messages = scope instanceof protobuf.Namespace ? messagesIn(scope) : [];
  for (const reference of references) protobuf.parse(reference.text, root, { keepCase: true });
  addWellKnown(root, [text, ...references.map((reference) => reference.text)]);
  root.resolveAll();
  if (messages.length === 0) throw new PenstockError('unsupported', 'it has no message');
  const readers = new Map<protobuf.Type, readonly Reader[]>();
  return {
    columns: () =>
      [...readers.values()].flatMap((fields) =>
        fields.flatMap(({ name, column }) => (column === null ? [] : [{ name, type: column }])),
      ),
    prepare: (payload) => {
      const { type } = messageAt(messages, payload);
      if (type !== null && !readers.has(type)) readers.set(type, readersOf(type, new Set([type])));
    },
    decode: (payload) => {
      const { type, at } = messageAt(messages, payload);
      if (type === null) return 'the message that it names is not in its schema';
      const fields = readers.get(type);
      return fields === undefined ? null : decodeMessage(type, fields, payload.subarray(at));
    },
  };
}

const messagesIn = (scope: protobuf.NamespaceBase): protobuf.Type[] =>
  scope.nestedArray.filter((entry) => entry instanceof protobuf.Type);

/** google/protobuf/*.proto, where a file imports it. */
function addWellKnown(root: protobuf.Root, texts: readonly string[]): void {
  for (const text of texts) {
    for (const [, path = ''] of text.matchAll(/import\s+(?:public\s+|weak\s+)?"(google\/protobuf\/\w+\.proto)"/g)) {
      const common = protobuf.common.get(path);
      if (common?.nested !== undefined) root.addJSON(common.nested);
    }
  }
}

function messageAt(
  messages: readonly protobuf.Type[],
  payload: Buffer,
): { readonly type: protobuf.Type | null; readonly at: number } {
  const reader = protobuf.Reader.create(payload);
  const count = reader.sint32();
  if (count === 0) return { type: messages[0] ?? null, at: reader.pos };
  if (count < 0 || count > PATH_MAX) throw new RangeError(`a path of ${count} messages`);
  let inside = messages;
  let type: protobuf.Type | null = null;
  for (let level = 0; level < count; level++) {
    type = inside[reader.sint32()] ?? null;
    inside = type === null ? [] : messagesIn(type);
  }
  return { type, at: reader.pos };
}

function decodeMessage(type: protobuf.Type, readers: readonly Reader[], bytes: Buffer): TypedRecord | string {
  const message = type.decode(bytes) as unknown as Record<string, unknown>; // its fields are its properties
  const record: TypedRecord = {};
  for (const { name, column, read } of readers) {
    const value = read(message);
    if (column === null && value !== null) return `field ${name}: there is no type of column for its values`;
    if (column !== null) record[name] = value;
  }
  return record;
}

function readersOf(type: protobuf.Type, open: ReadonlySet<protobuf.Type>): Reader[] {
  return type.fieldsArray.map((field) => readerOf(field, open));
}

function readerOf(field: protobuf.Field, open: ReadonlySet<protobuf.Type>): Reader {
  const { name } = field;
  const part = FORBIDDEN_NAMES.has(name) ? null : partOf(field, open);
  const onWire = (message: Record<string, unknown>): unknown =>
    Object.hasOwn(message, name) ? message[name] : undefined;
  if (field instanceof protobuf.MapField) {
    const key = keyOf(field.keyType);
    const column = part === null || key === null ? null : { map: { key, value: part.column } };
    const convert = part?.convert ?? plain;
    return {
      name,
      column,
      read: (message) => {
        const map = Object.entries((onWire(message) ?? {}) as Record<string, unknown>); // a map's property
        if (column === null && map.length === 0) return null;
        return Object.fromEntries(map.map(([entry, value]) => [mapKey(entry, field.keyType), convert(value)]));
      },
    };
  }
  if (field.repeated) {
    return {
      name,
      column: part === null ? null : { list: part.column },
      read: (message) => {
        const list = (onWire(message) ?? []) as readonly unknown[]; // a repeated field's property
        return part === null ? (list.length === 0 ? null : list) : list.map(part.convert);
      },
    };
  }
  const convert = part?.convert ?? plain;
  const hasPresence = field.hasPresence || field.partOf !== null || field.resolvedType instanceof protobuf.Type;
  return {
    name,
    column: part?.column ?? null,
    read: (message) => {
      const value = onWire(message);
      if (value !== undefined && value !== null) return convert(value);
      return hasPresence || part === null ? null : convert(field.defaultValue);
    },
  };
}

/** protobufjs keeps keys of 64 bits as 8 characters of their bytes. */
function mapKey(key: string, type: string): string {
  if (!/64$/.test(type) || key.length !== 8) return key;
  const bits = Buffer.from(key, 'latin1').readBigUInt64LE();
  return (/^u|^fixed/.test(type) ? bits : BigInt.asIntN(64, bits)).toString();
}

function keyOf(type: string): 'string' | 'int' | 'long' | null {
  if (type === 'string') return 'string';
  if (type === 'bool') return null;
  return type === 'int32' || type === 'sint32' || type === 'sfixed32' ? 'int' : 'long';
}

const SCALARS: Readonly<Record<string, ColumnType>> = {
  double: 'double',
  float: 'float',
  int32: 'int',
  sint32: 'int',
  sfixed32: 'int',
  uint32: 'long',
  fixed32: 'long',
  int64: 'long',
  uint64: 'long',
  sint64: 'long',
  sfixed64: 'long',
  fixed64: 'long',
  bool: 'boolean',
  string: 'string',
  bytes: 'binary',
};

const WRAPPER = /^\.google\.protobuf\.(Double|Float|Int64|UInt64|Int32|UInt32|Bool|String|Bytes)Value$/;

function partOf(field: protobuf.Field, open: ReadonlySet<protobuf.Type>): Part | null {
  const type = field.resolvedType;
  if (type === null) {
    const column = SCALARS[field.type];
    return column === undefined
      ? null
      : { column, convert: column === 'long' ? exactLong : column === 'binary' ? bytes : plain };
  }
  if (type instanceof protobuf.Enum) {
    const names = type.valuesById;
    return { column: 'string', convert: (value) => names[Number(value)] ?? String(Number(value)) };
  }
  if (type.fullName === '.google.protobuf.Timestamp') return { column: 'timestamptz', convert: timestamp };
  if (WRAPPER.test(type.fullName)) {
    const [inner] = readersOf(type, open);
    if (inner?.column == null) return null;
    return { column: inner.column, convert: (value) => inner.read(value as Record<string, unknown>) }; // a message
  }
  return structOf(type, open);
}

function structOf(type: protobuf.Type, open: ReadonlySet<protobuf.Type>): Part | null {
  if (open.has(type) || type.fieldsArray.length === 0 || !haveDistinctNames(type.fieldsArray)) return null;
  const readers = readersOf(type, new Set([...open, type]));
  const struct: Column[] = [];
  for (const { name, column } of readers) {
    if (column === null) return null;
    struct.push({ name, type: column });
  }
  return {
    column: { struct },
    convert: (value) => {
      const message = value as Record<string, unknown>; // of a message type
      return Object.fromEntries(readers.map(({ name, read }) => [name, read(message)]));
    },
  };
}

const plain = (value: unknown): unknown => value;
/** The default is an empty array. */
const bytes = (value: unknown): Uint8Array => (value instanceof Uint8Array ? value : new Uint8Array());

/** 64-bit numbers come as objects of `long`. */
function exactLong(value: unknown): number | bigint {
  if (typeof value === 'number') return value;
  const exact = BigInt(String(value));
  const number = Number(exact);
  return Number.isSafeInteger(number) ? number : exact;
}

function timestamp(value: unknown): EpochMicros {
  const { seconds, nanos } = value as { readonly seconds?: unknown; readonly nanos?: number }; // a Timestamp
  return new EpochMicros(Number(exactLong(seconds ?? 0)) * 1e6 + Math.floor((nanos ?? 0) / 1000));
}
