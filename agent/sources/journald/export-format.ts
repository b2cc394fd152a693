/**
 * The journal export format (systemd.io/JOURNAL_EXPORT_FORMATS), as `journalctl --output=export` prints it, cut into entries as it arrives.
 *
 *   FIELD=text LF                                      a value without control characters
 *   FIELD LF, u64 bytes of it (little-endian), bytes, LF     any other value
 *   LF                                                 the entry is complete
 *
 * A field may occur several times. Those that begin with two underscores are no fields of the entry: they say where and when it was stored.
 *
 * Pure. Invariants: an entry is given out when its empty line has come, so one that is cut off by the end of its process is none.
 * Limits: of a value `fieldBytesMax` are kept, of an entry ENTRY_BYTES_MAX and VALUES_MAX values, whatever comes; the rest is counted. Of what journald itself says
 * TRUSTED_BYTES are kept whatever these are: a place that is cut is none, and a sender with large fields would hide who he is.
 */
import { PenstockError } from '../../../lib/errors.ts';

/** Together with names and escapes this mostly fits into a record. */
const ENTRY_BYTES_MAX = 768 * 1024;
/** journald takes entries of 1024 (journal-def.h). */
const VALUES_MAX = 2048;
/** Of a field whose name begins with an underscore: more than a cursor, the name of a unit or of a file has. No sender can give such a field. */
const TRUSTED_BYTES = 4096;
/** Of the name, its `=` and the end of a line. */
const NAME_BYTES_MAX = 128;
/** journald takes values of 768 MiB (journal-importer.h): what claims more is not this format. */
const VALUE_BYTES_MAX = 2n ** 40n;
const SIZE_BYTES = 8;
const LF = 10;
const EQUALS = 0x3d;

export interface FieldValue {
  readonly bytes: Buffer;
  /** As it stands in the journal: more than `bytes` where it was cut. */
  readonly size: number;
}

export interface Entry {
  /** In the order in which they stand there. */
  readonly fields: ReadonlyMap<string, readonly FieldValue[]>;
  /** So many values more than an entry may have. */
  readonly omitted: number;
}

export class ExportParser {
  readonly #fieldBytesMax: number;
  #fields = new Map<string, FieldValue[]>();
  #count = 0;
  #entryBytes = 0;
  /** What is being read: a line, the size of a value, or a value with the LF behind it. */
  #state: 'line' | 'size' | 'value' = 'line';
  #name = '';
  /** Of the piece that is being read: what is kept of it, and how long it is so far. */
  #parts: Buffer[] = [];
  #partBytes = 0;
  #length = 0;
  /** Of a value, without its LF. */
  #size = 0;

  constructor(fieldBytesMax: number) {
    this.#fieldBytesMax = fieldBytesMax;
  }

  /** Throws `corrupt` where it is not this format. */
  *push(chunk: Buffer): Generator<Entry, void> {
    for (let at = 0; at < chunk.length;) {
      if (this.#state === 'line') {
        const end = chunk.indexOf(LF, at);
        this.#keep(chunk, at, end < 0 ? chunk.length : end);
        at = end < 0 ? chunk.length : end + 1;
        if (end >= 0) yield* this.#endLine();
      } else {
        const total = this.#state === 'size' ? SIZE_BYTES : this.#size + 1;
        const end = Math.min(chunk.length, at + total - this.#length);
        this.#keep(chunk, at, end);
        at = end;
        if (this.#length < total) continue;
        if (this.#state === 'size') this.#endSize();
        else this.#endValue(chunk[end - 1]);
      }
    }
  }

  #keep(chunk: Buffer, from: number, to: number): void {
    this.#length += to - from;
    // Of a line, the name is not known yet.
    const max =
      this.#state === 'value' ? this.#keptMax(this.#name) : Math.max(TRUSTED_BYTES, this.#keptMax('')) + NAME_BYTES_MAX;
    const kept = Math.min(to - from, max - this.#partBytes);
    if (kept <= 0) return;
    this.#parts.push(chunk.subarray(from, from + kept));
    this.#partBytes += kept;
  }

  /** Of a further value of this entry. */
  #keptMax(name: string): number {
    const least = name.startsWith('_') ? TRUSTED_BYTES : 0;
    return Math.max(least, Math.min(this.#fieldBytesMax, ENTRY_BYTES_MAX - this.#entryBytes));
  }

  /** What was kept of the piece, and its length; the next one begins. */
  #take(): FieldValue {
    const [only, ...others] = this.#parts;
    const bytes = only === undefined ? Buffer.alloc(0) : others.length === 0 ? only : Buffer.concat(this.#parts);
    const taken = { bytes, size: this.#length };
    this.#parts = [];
    this.#partBytes = 0;
    this.#length = 0;
    return taken;
  }

  *#endLine(): Generator<Entry, void> {
    const { bytes, size } = this.#take();
    if (size === 0) {
      if (this.#count > 0) yield { fields: this.#fields, omitted: Math.max(0, this.#count - VALUES_MAX) };
      this.#fields = new Map();
      this.#count = 0;
      this.#entryBytes = 0;
      return;
    }
    const equals = bytes.indexOf(EQUALS);
    if (equals >= 0) {
      const name = bytes.toString('latin1', 0, equals);
      const value = bytes.subarray(equals + 1, equals + 1 + this.#keptMax(name));
      this.#add(name, { bytes: value, size: size - equals - 1 });
      return;
    }
    if (size > NAME_BYTES_MAX) throw notThisFormat(`a line of ${size} bytes without =`);
    this.#name = bytes.toString('latin1');
    this.#state = 'size';
  }

  #endSize(): void {
    const size = this.#take().bytes.readBigUInt64LE();
    if (size > VALUE_BYTES_MAX) throw notThisFormat(`a value of ${size} bytes`);
    this.#size = Number(size);
    this.#state = 'value';
  }

  #endValue(last: number | undefined): void {
    if (last !== LF) throw notThisFormat('a value that does not end where it should');
    const { bytes } = this.#take();
    this.#state = 'line';
    this.#add(this.#name, { bytes: bytes.subarray(0, this.#size), size: this.#size });
  }

  #add(name: string, value: FieldValue): void {
    this.#count += 1;
    if (this.#count > VALUES_MAX) return;
    this.#entryBytes += value.bytes.length;
    const values = this.#fields.get(name);
    if (values === undefined) this.#fields.set(name, [value]);
    else values.push(value);
  }
}

function notThisFormat(what: string): PenstockError {
  return new PenstockError('corrupt', `journalctl gave what is not its export format: ${what}`);
}
