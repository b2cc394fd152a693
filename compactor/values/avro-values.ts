/**
 * Avro values by a schema of a registry (https://avro.apache.org/docs/1.12.0/specification/).
 *
 *   int long float double boolean string bytes      the column of that name (bytes: binary)
 *   enum string | fixed binary | array list | map map of text | record struct | union with null: optional
 *   decimal decimal(P, S) | uuid uuid | date date | time-* time | timestamp-* timestamptz | local-timestamp-* timestamp
 *
 * A field that no column can hold (a union of several types, a record that holds itself) is no obstacle to the others: records that have
 * a value in it are refused by name.
 * Limits: damaged counts end at the end of the bytes (lib/table/avro.ts sees to that in avsc), and arrays of elements without bytes,
 * which a few bytes could claim to have billions of, are refused.
 */
import avsc from 'avsc';
import '../../lib/table/avro.ts';
import { PenstockError } from '../../lib/errors.ts';
import { type Column, type ColumnType, haveDistinctNames } from '../../lib/table/schema.ts';
import { EpochMicros } from '../lander/event-time.ts';
import { timeOfDay } from '../lander/scalar-text.ts';
import type { RegisteredSchema } from './registry.ts';
import type { SchemaDecoder, TypedRecord } from './value-decoder.ts';

const DECIMAL_DIGITS_MAX = 38;
const MS_PER_DAY = 86_400_000;
const UUID_BYTES = 16;
const TWO_32 = 2 ** 32;
/** Names that mean something else to a JavaScript object. */
const FORBIDDEN_NAMES: ReadonlySet<string> = new Set(['__proto__']);

/** Throws for a schema that is none, or not that of a record. */
export function compileAvro({ text, references }: RegisteredSchema): SchemaDecoder {
  const registry: Record<string, avsc.Type> = { long: exactLong };
  const options = { registry, logicalTypes: LOGICAL_TYPES, typeHook: plainLongs };
  const parse = (schema: string): avsc.Type => avsc.Type.forSchema(JSON.parse(schema) as avsc.Schema, options); // avsc checks it
  for (const reference of references) parse(reference.text);
  const type = parse(text);
  if (!isRecord(type))
    throw new PenstockError('unsupported', `its values are of type ${type.typeName}: expected records`);
  const columns: Column[] = [];
  const refused: string[] = [];
  for (const { name, type: fieldType } of type.fields) {
    if (!isSized(fieldType, new Set())) {
      throw new PenstockError('unsupported', `field ${name} is an array of elements that have no bytes`);
    }
    const column = FORBIDDEN_NAMES.has(name) ? null : columnOf(fieldType, new Set([type]));
    if (column === null) refused.push(name);
    else columns.push({ name, type: column });
  }
  return {
    columns: () => columns,
    prepare: () => undefined,
    decode: (payload) => {
      const { value, offset } = type.decode(payload, 0) as { readonly value: TypedRecord; readonly offset: number }; // a record's type
      if (offset < 0) return `value of ${payload.length} bytes ends inside of the record`;
      if (offset !== payload.length) return `value has ${payload.length - offset} bytes behind the record`;
      for (const name of refused) {
        if (value[name] !== null) return `field ${name}: there is no type of column for its values`;
      }
      return { ...value };
    },
  };
}

/** A number where it is exact, else a bigint. */
const exactLong = avsc.types.LongType.__with({
  fromBuffer: (bytes: Buffer): number | bigint => {
    const value = bytes.readInt32LE(4) * TWO_32 + bytes.readUInt32LE(0);
    return Number.isSafeInteger(value) ? value : bytes.readBigInt64LE();
  },
  toBuffer: (value: bigint | number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    return bytes;
  },
  fromJSON: Number,
  toJSON: Number,
  isValid: (value: unknown) => typeof value === 'bigint' || Number.isSafeInteger(value),
  compare: (a: bigint | number, b: bigint | number) => (a < b ? -1 : a > b ? 1 : 0),
});

/** avsc asks its registry for the name `long` only, not for an object of that type. */
function plainLongs(schema: unknown): avsc.Type | undefined {
  if (typeof schema !== 'object' || schema === null || !('type' in schema) || schema.type !== 'long') return undefined;
  const isKnown = 'logicalType' in schema && Object.hasOwn(LOGICAL_TYPES, String(schema.logicalType));
  return isKnown ? undefined : exactLong;
}

interface LogicalSchema {
  readonly precision?: unknown;
  readonly scale?: unknown;
}

/** A logical type that is not valid is read as what it is made of, as the specification says: its constructor throws then. */
abstract class TypedValue extends avsc.types.LogicalType {
  abstract readonly column: ColumnType;
  /** What `underlyingType` must be. */
  protected expect(...names: readonly string[]): void {
    if (!names.includes(this.underlyingType.typeName)) throw new TypeError(`not a logical type of ${names.join(', ')}`);
  }
  protected override _toValue(): never {
    throw new TypeError('values are only read here');
  }
}

class DecimalValue extends TypedValue {
  readonly column: ColumnType;
  readonly #scale: number;
  constructor(schema: avsc.Schema, options?: unknown) {
    super(schema, options);
    this.expect('bytes', 'fixed');
    const { precision, scale = 0 } = schema as LogicalSchema;
    const isValid =
      Number.isInteger(precision) &&
      Number.isInteger(scale) &&
      Number(scale) >= 0 &&
      Number(scale) <= Number(precision);
    if (!isValid || Number(precision) < 1 || Number(precision) > DECIMAL_DIGITS_MAX) throw new TypeError('precision');
    this.#scale = Number(scale);
    this.column = `decimal(${Number(precision)}, ${this.#scale})`;
  }
  protected override _fromValue(bytes: Buffer): string {
    const unscaled = bytes.length === 0 ? 0n : BigInt.asIntN(bytes.length * 8, BigInt(`0x${bytes.toString('hex')}`));
    const digits = (unscaled < 0n ? -unscaled : unscaled).toString().padStart(this.#scale + 1, '0');
    const whole = digits.slice(0, digits.length - this.#scale);
    const text = this.#scale === 0 ? whole : `${whole}.${digits.slice(whole.length)}`;
    return unscaled < 0n ? `-${text}` : text;
  }
}

class UuidValue extends TypedValue {
  readonly column = 'uuid';
  constructor(schema: avsc.Schema, options?: unknown) {
    super(schema, options);
    this.expect('string', 'fixed');
    const { underlyingType } = this;
    if (underlyingType instanceof avsc.types.FixedType && underlyingType.size !== UUID_BYTES)
      throw new TypeError('size');
  }
  protected override _fromValue(value: string | Buffer): string {
    if (typeof value === 'string') return value;
    return value.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  }
}

/** A logical type of `int` or `long`. */
function numberType(
  column: ColumnType,
  underlying: string,
  convert: (value: number | bigint) => unknown,
): new (schema: avsc.Schema, options?: unknown) => avsc.types.LogicalType {
  return class extends TypedValue {
    readonly column = column;
    constructor(schema: avsc.Schema, options?: unknown) {
      super(schema, options);
      this.expect(underlying);
    }
    protected override _fromValue(value: number | bigint): unknown {
      return convert(value);
    }
  };
}

/** Of the type below a logical one; beyond 2^53 avsc itself refuses it. */
const LONG = 'long';
const times = (scale: number) => (value: number | bigint) => new EpochMicros(Number(value) * scale);
const time = (scale: number) => (value: number | bigint) => timeOfDay(Number(value) * scale) ?? String(value);
const day = (value: number | bigint): string => new Date(Number(value) * MS_PER_DAY).toISOString().slice(0, 10);

const LOGICAL_TYPES = {
  decimal: DecimalValue,
  uuid: UuidValue,
  date: numberType('date', 'int', day),
  'time-millis': numberType('time', 'int', time(1000)),
  'time-micros': numberType('time', LONG, time(1)),
  'timestamp-millis': numberType('timestamptz', LONG, times(1000)),
  'timestamp-micros': numberType('timestamptz', LONG, times(1)),
  'local-timestamp-millis': numberType('timestamp', LONG, times(1000)),
  'local-timestamp-micros': numberType('timestamp', LONG, times(1)),
};

const PLAIN: ReadonlyMap<string, ColumnType> = new Map([
  ['boolean', 'boolean'],
  ['int', 'int'],
  [exactLong.typeName, 'long'],
  [LONG, 'long'],
  ['float', 'float'],
  ['double', 'double'],
  ['string', 'string'],
  ['enum', 'string'],
  ['bytes', 'binary'],
  ['fixed', 'binary'],
]);

/** null: no column can hold it. `open`: the records around it. */
function columnOf(type: avsc.Type, open: ReadonlySet<avsc.Type>): ColumnType | null {
  if (type instanceof TypedValue) return type.column;
  if (type instanceof avsc.types.LogicalType) return columnOf(type.underlyingType, open);
  const branches = branchesOf(type);
  if (branches !== null) {
    const [only, ...others] = branches.filter((branch) => branch.typeName !== 'null');
    return only === undefined || others.length > 0 ? null : columnOf(only, open);
  }
  if (type instanceof avsc.types.ArrayType) {
    const list = columnOf(type.itemsType, open);
    return list === null ? null : { list };
  }
  if (type instanceof avsc.types.MapType) {
    const value = columnOf(type.valuesType as avsc.Type, open); // not typed in avsc
    return value === null ? null : { map: { key: 'string', value } };
  }
  if (isRecord(type)) return structOf(type, open);
  return PLAIN.get(type.typeName) ?? null;
}

function structOf(type: avsc.types.RecordType, open: ReadonlySet<avsc.Type>): ColumnType | null {
  if (open.has(type) || type.fields.length === 0 || !haveDistinctNames(type.fields)) return null;
  const inside = new Set([...open, type]);
  const struct: Column[] = [];
  for (const field of type.fields) {
    const column = FORBIDDEN_NAMES.has(field.name) ? null : columnOf(field.type, inside);
    if (column === null) return null;
    struct.push({ name: field.name, type: column });
  }
  return { struct };
}

/** False where a count in the bytes could stand for elements that take none. */
function isSized(type: avsc.Type, open: Set<avsc.Type>): boolean {
  if (open.has(type)) return true;
  open.add(type);
  const inner = partsOf(type);
  if (type instanceof avsc.types.ArrayType && !takesBytes(type.itemsType, new Set())) return false;
  return inner.every((part) => isSized(part, open));
}

function takesBytes(type: avsc.Type, open: ReadonlySet<avsc.Type>): boolean {
  if (type instanceof avsc.types.LogicalType) return takesBytes(type.underlyingType, open);
  if (type instanceof avsc.types.FixedType) return type.size > 0;
  if (!isRecord(type)) return type.typeName !== 'null';
  if (open.has(type)) return false;
  return type.fields.some((field) => takesBytes(field.type, new Set([...open, type])));
}

function partsOf(type: avsc.Type): readonly avsc.Type[] {
  if (type instanceof avsc.types.LogicalType) return [type.underlyingType];
  if (type instanceof avsc.types.ArrayType) return [type.itemsType];
  if (type instanceof avsc.types.MapType) return [type.valuesType as avsc.Type]; // not typed in avsc
  return isRecord(type) ? type.fields.map((field) => field.type) : (branchesOf(type) ?? []);
}

function branchesOf(type: avsc.Type): readonly avsc.Type[] | null {
  const isUnion = type instanceof avsc.types.UnwrappedUnionType || type instanceof avsc.types.WrappedUnionType;
  return isUnion ? type.types : null;
}

const isRecord = (type: avsc.Type): type is avsc.types.RecordType => type instanceof avsc.types.RecordType;
