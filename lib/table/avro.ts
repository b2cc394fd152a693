/**
 * Avro object container files (https://avro.apache.org/docs/1.12.0/specification/#object-container-files), records one at a time.
 *
 *   "Obj" 0x01 | map<bytes> metadata (avro.schema, avro.codec, ...) | 16 bytes sync marker | blocks
 *   block: long count | long size | size bytes (count records, compressed) | sync marker
 *
 * The records' codec is avsc; the container is our own, because avsc's streams emit whole blocks late, and a damaged file must
 * end as `corrupt` with its name. `long` is bigint on both sides, exact over 64 bits.
 * Limits: a block inflates to at most BLOCK_BYTES_MAX, so that a small hostile file cannot fill the memory.
 */
import { randomBytes } from 'node:crypto';
import { constants, deflateRawSync, inflateRawSync, zstdDecompressSync } from 'node:zlib';
import avsc from 'avsc';
// @ts-expect-error It has no types; avsc is pinned by the lock file.
import avscInternals from 'avsc/lib/utils.js';
import { PenstockError } from '../errors.ts';

const MAGIC = Buffer.from([0x4f, 0x62, 0x6a, 0x01]);
const SYNC_BYTES = 16;
/** Where a block is closed: small enough to inflate in a moment, large enough for the compression to see repetition. */
const BLOCK_BYTES = 128 * 1024;
const BLOCK_BYTES_MAX = 256 * 2 ** 20;
/** Schemas differ by partition spec and by writer; a program meets a handful. */
const TYPES_MAX = 64;

/** An Avro schema in its JSON form, with the attributes (`field-id`) that Iceberg adds. */
export type AvroSchema = string | readonly AvroSchema[] | { readonly [attribute: string]: unknown };

const bigintLong = avsc.types.LongType.__with({
  fromBuffer: (bytes: Buffer) => bytes.readBigInt64LE(),
  toBuffer: (value: bigint) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(value);
    return bytes;
  },
  fromJSON: BigInt,
  toJSON: String,
  isValid: (value: unknown) => typeof value === 'bigint',
  compare: (a: bigint, b: bigint) => (a < b ? -1 : a > b ? 1 : 0),
});

const READS = ['readLong', 'readInt', 'readBoolean', 'readFloat', 'readDouble', 'unpackLongBytes'] as const;

/** What avsc reads a buffer with. */
interface Tap extends Record<(typeof READS)[number], (this: Tap) => unknown> {
  readonly buf: Buffer;
  readonly pos: number;
  readonly readFixed: (this: Tap, bytes: number) => unknown;
}

/**
 * avsc reads zeros behind the end of its buffer and looks at the overflow only when a record is done: a damaged count of an array or
 * map then loops for hours. Every element begins with one of these reads, so they refuse to begin behind the end.
 */
function endAtTheEnd(tap: Tap): void {
  for (const name of READS) {
    const read = tap[name];
    Object.defineProperty(tap, name, {
      value: function (this: Tap) {
        if (this.pos >= this.buf.length) throw new RangeError('it ends inside of a record');
        return read.call(this);
      },
    });
  }
  const { readFixed } = tap;
  Object.defineProperty(tap, 'readFixed', {
    value: function (this: Tap, bytes: number) {
      if (this.pos + bytes > this.buf.length) throw new RangeError('it ends inside of a record');
      return readFixed.call(this, bytes);
    },
  });
}
endAtTheEnd((avscInternals as { Tap: { prototype: Tap } }).Tap.prototype);

const header = avsc.Type.forSchema({ type: 'map', values: 'bytes' });
const plainLong = avsc.Type.forSchema('long');
const types = new Map<string, avsc.Type>();

function typeOf(schemaText: string): avsc.Type {
  const known = types.get(schemaText);
  if (known !== undefined) return known;
  const schema = JSON.parse(schemaText) as avsc.Schema; // avsc itself checks it
  const type = avsc.Type.forSchema(schema, { registry: { long: bigintLong }, wrapUnions: false });
  if (types.size >= TYPES_MAX) types.clear();
  types.set(schemaText, type);
  return type;
}

/** Builds a container record by record. */
export class AvroWriter {
  readonly #type: avsc.Type;
  readonly #sync = randomBytes(SYNC_BYTES);
  readonly #done: Buffer[];
  #block: Buffer[] = [];
  #blockBytes = 0;
  #doneBytes = 0;

  constructor(schema: AvroSchema, metadata: Readonly<Record<string, string>>) {
    const schemaText = JSON.stringify(schema);
    this.#type = typeOf(schemaText);
    const entries = { ...metadata, 'avro.schema': schemaText, 'avro.codec': 'deflate' };
    const encoded = Object.entries(entries).map(([key, value]) => [key, Buffer.from(value)] as const);
    this.#done = [MAGIC, header.toBuffer(Object.fromEntries(encoded)), this.#sync];
  }

  /** Compressed bytes of the closed blocks. */
  get bytes(): number {
    return this.#doneBytes;
  }

  write(record: unknown): void {
    const encoded = this.#type.toBuffer(record);
    this.#block.push(encoded);
    this.#blockBytes += encoded.length;
    if (this.#blockBytes >= BLOCK_BYTES) this.#closeBlock();
  }

  finish(): Buffer {
    this.#closeBlock();
    return Buffer.concat(this.#done);
  }

  #closeBlock(): void {
    if (this.#block.length === 0) return;
    const packed = deflateRawSync(Buffer.concat(this.#block), { level: constants.Z_BEST_SPEED });
    this.#done.push(plainLong.toBuffer(this.#block.length), plainLong.toBuffer(packed.length), packed, this.#sync);
    this.#doneBytes += packed.length;
    this.#block = [];
    this.#blockBytes = 0;
  }
}

export interface AvroContainer {
  readonly metadata: ReadonlyMap<string, string>;
  /** Decodes as it is iterated. Throws `corrupt`. */
  records(): Generator;
}

/** Throws `corrupt` naming `name`. */
export function openAvro(bytes: Buffer, name: string): AvroContainer {
  const damaged = (what: string, cause?: unknown): PenstockError =>
    new PenstockError('corrupt', `${name} is a damaged Avro file: ${what}`, { cause });
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw damaged('no Avro header');
  const { value, offset } = decode(header, bytes, MAGIC.length, damaged);
  const metadata = new Map(
    Object.entries(value as Record<string, Buffer>).map(([key, text]) => [key, text.toString('utf8')] as const),
  );
  const type = typeOfHeader(metadata, damaged);
  const inflate = codecOf(metadata.get('avro.codec') ?? 'null', damaged);
  const sync = bytes.subarray(offset, offset + SYNC_BYTES);
  if (sync.length < SYNC_BYTES) throw damaged('it ends inside of its header');
  return { metadata, records: () => readBlocks(bytes, offset + SYNC_BYTES, sync, type, inflate, damaged) };
}

type Damaged = (what: string, cause?: unknown) => PenstockError;

function* readBlocks(
  bytes: Buffer,
  start: number,
  sync: Buffer,
  type: avsc.Type,
  inflate: (packed: Buffer) => Buffer,
  damaged: Damaged,
): Generator {
  for (let at = start; at < bytes.length;) {
    const count = decode(plainLong, bytes, at, damaged);
    const size = decode(plainLong, bytes, count.offset, damaged);
    const end = size.offset + Number(size.value);
    if (end < size.offset || !bytes.subarray(end, end + SYNC_BYTES).equals(sync)) throw damaged(`block at byte ${at}`);
    let block: Buffer;
    try {
      block = inflate(bytes.subarray(size.offset, end));
    } catch (error) {
      throw damaged(`block at byte ${at}`, error);
    }
    let position = 0;
    for (let index = 0; index < Number(count.value); index++) {
      const record = decode(type, block, position, damaged);
      position = record.offset;
      yield record.value;
    }
    if (position !== block.length) throw damaged(`block at byte ${at} is longer than its records`);
    at = end + SYNC_BYTES;
  }
}

function decode(type: avsc.Type, bytes: Buffer, at: number, damaged: Damaged): { value: unknown; offset: number } {
  let decoded: { value: unknown; offset: number };
  try {
    decoded = type.decode(bytes, at);
  } catch (error) {
    throw damaged(`record at byte ${at}`, error);
  }
  // avsc answers -1 when the bytes end too early.
  if (decoded.offset < 0) throw damaged(`it ends inside of the record at byte ${at}`);
  return decoded;
}

function typeOfHeader(metadata: ReadonlyMap<string, string>, damaged: Damaged): avsc.Type {
  const text = metadata.get('avro.schema');
  if (text === undefined) throw damaged('no schema');
  try {
    return typeOf(text);
  } catch (error) {
    throw damaged('its schema', error);
  }
}

function codecOf(codec: string, damaged: Damaged): (packed: Buffer) => Buffer {
  switch (codec) {
    case 'null':
      return (packed) => packed;
    case 'deflate':
      return (packed) => inflateRawSync(packed, { maxOutputLength: BLOCK_BYTES_MAX });
    case 'zstandard':
      return (packed) => zstdDecompressSync(packed, { maxOutputLength: BLOCK_BYTES_MAX });
    default:
      throw damaged(`codec '${codec}' is not one of null, deflate, zstandard`);
  }
}
