/**
 * Values in Confluent's wire format, for any kind of schema:
 *
 *   0x00 | u32 schema id, big-endian | payload
 *
 * Invariants: a schema id means the same for ever, so what is known of it is kept; that a registry does not have one is believed for
 * UNKNOWN_MS only (a follower may be behind its leader). A transport failure decides nothing about a record.
 * Limits: SCHEMAS_MAX ids; the oldest goes first.
 */
import type { Clock } from '../../lib/clock.ts';
import { describeError } from '../../lib/errors.ts';
import type { Column } from '../../lib/table/schema.ts';
import type { RegisteredSchema, SchemaRegistry } from './registry.ts';
import type { SchemaDecoder, TypedRecord, ValueDecoder } from './value-decoder.ts';

const MAGIC = 0;
const PREFIX_BYTES = 5;
const UNKNOWN_MS = 60_000;
const SCHEMAS_MAX = 1000;

interface Known {
  /** A text: why values of this schema cannot be read. */
  readonly decoder: SchemaDecoder | string;
  readonly untilMs: number;
}

export class RegistryDecoder implements ValueDecoder {
  readonly #registry: SchemaRegistry;
  readonly #kind: 'AVRO' | 'PROTOBUF';
  readonly #compile: (schema: RegisteredSchema) => SchemaDecoder;
  readonly #clock: Clock;
  readonly #known = new Map<number, Known>();

  /** `compile` throws for a schema that cannot be used. */
  constructor(
    registry: SchemaRegistry,
    kind: 'AVRO' | 'PROTOBUF',
    compile: (schema: RegisteredSchema) => SchemaDecoder,
    clock: Clock,
  ) {
    this.#registry = registry;
    this.#kind = kind;
    this.#compile = compile;
    this.#clock = clock;
  }

  decode(value: Buffer): TypedRecord | string | null {
    if (value.length < PREFIX_BYTES) return `value of ${value.length} bytes: expected a schema id in front`;
    if (value[0] !== MAGIC) return `value begins with byte ${value[0] ?? 0}: expected 0 and the id of a schema`;
    const id = value.readUInt32BE(1);
    const known = this.#known.get(id);
    if (known === undefined) return null;
    if (typeof known.decoder === 'string') return known.untilMs > this.#clock.monotonicMs() ? known.decoder : null;
    try {
      return known.decoder.decode(value.subarray(PREFIX_BYTES));
    } catch (error) {
      return `not of schema ${id}: ${describeError(error)}`;
    }
  }

  async prepare(value: Uint8Array | null): Promise<void> {
    if (value === null || value.length < PREFIX_BYTES || value[0] !== MAGIC) return;
    const id = new DataView(value.buffer, value.byteOffset, value.length).getUint32(1);
    let known = this.#known.get(id);
    if (known === undefined || known.untilMs <= this.#clock.monotonicMs()) known = await this.#fetch(id);
    const { decoder } = known;
    if (typeof decoder === 'string') return;
    try {
      decoder.prepare(Buffer.from(value.buffer, value.byteOffset + PREFIX_BYTES, value.length - PREFIX_BYTES));
    } catch {
      // Damaged bytes: `decode` says so.
    }
  }

  async #fetch(id: number): Promise<Known> {
    const schema = await this.#registry.schema(id);
    const known: Known = {
      decoder: schema === null ? `schema ${id} is not in the registry` : this.#decoderOf(id, schema),
      untilMs: schema === null ? this.#clock.monotonicMs() + UNKNOWN_MS : Infinity,
    };
    this.#known.delete(id);
    const [oldest] = this.#known.keys();
    if (this.#known.size >= SCHEMAS_MAX && oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(id, known);
    return known;
  }

  columns(): readonly Column[] {
    return [...this.#known.values()].flatMap(({ decoder }) => (typeof decoder === 'string' ? [] : decoder.columns()));
  }

  #decoderOf(id: number, schema: RegisteredSchema): SchemaDecoder | string {
    if (schema.kind !== this.#kind) return `schema ${id} is of type ${schema.kind}: expected ${this.#kind}`;
    try {
      return this.#compile(schema);
    } catch (error) {
      return `schema ${id} cannot be used: ${describeError(error)}`;
    }
  }
}
