/** Typed values: how the bytes of a record become an object whose fields go into columns, with the schema that a registry has for them. */
import type { Column } from '../../lib/table/schema.ts';

/** Field values as lander/fields.ts takes them: `EpochMicros` for times, text for dates, decimals and uuids, bytes as they are. */
export type TypedRecord = Record<string, unknown>;

export interface ValueDecoder {
  /** The record; a text: why it cannot be read; null: its schema is not known yet (`prepare`). */
  decode(value: Buffer): TypedRecord | string | null;
  /** Fetches the schema of `value` where it is not known. Throws `unavailable` while the registry gives no answer. */
  prepare(value: Uint8Array | null): Promise<void>;
  /** The columns that the schemas known so far ask for, without those that cannot be columns. */
  columns(): readonly Column[];
}

/** One schema of a registry, ready to decode values. */
export interface SchemaDecoder {
  /** Of the messages prepared for. */
  columns(): readonly Column[];
  /** A Protobuf schema has several messages: makes ready for that of `payload`, which begins behind the schema id. */
  prepare(payload: Buffer): void;
  /** As `ValueDecoder.decode`. Throws for bytes that are not of the schema. */
  decode(payload: Buffer): TypedRecord | string | null;
}
