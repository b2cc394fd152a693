/**
 * The identity of a reading, (agent, incarnation, seq), from the record's headers into its columns.
 *
 * Records of foreign producers have none of the three headers and null columns; some of them, or text that is no number, is a
 * damaged identity: such a record could be taken for another and is refused.
 */
import type { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import type { LongColumn, StringColumn } from '../../lib/sql/columns.ts';

const AGENT = Buffer.from('agent');
const INCARNATION = Buffer.from('incarnation');
const SEQ = Buffer.from('seq');
const TEXT_BYTES_MAX = 256;

/** A text column whose values mostly repeat: one agent's records come in long runs. */
class RepeatingText {
  readonly #column: StringColumn;
  #last = Buffer.alloc(0);
  /** The row of the current chunk that holds `#last`; -1: none. */
  #row = -1;

  constructor(column: StringColumn) {
    this.#column = column;
  }

  setNull(row: number): void {
    this.#column.setNull(row);
    this.#forgetBefore(row);
  }

  set(row: number, bytes: Buffer): void {
    this.#forgetBefore(row);
    if (this.#row >= 0 && bytes.equals(this.#last)) {
      this.#column.repeat(row, this.#row);
      return;
    }
    this.#column.setBytes(row, bytes);
    this.#last = Buffer.from(bytes);
    this.#row = row;
  }

  /** Row 0 begins a new chunk; a row that was undone and is staged again may not point to itself. */
  #forgetBefore(row: number): void {
    if (row <= this.#row) this.#row = -1;
  }
}

export class Identity {
  readonly #agent: RepeatingText;
  readonly #incarnation: RepeatingText;
  readonly #seq: LongColumn;
  /** Whether the record of the last `set` had no identity. */
  isForeign = false;

  constructor(agent: StringColumn, incarnation: StringColumn, seq: LongColumn) {
    this.#agent = new RepeatingText(agent);
    this.#incarnation = new RepeatingText(incarnation);
    this.#seq = seq;
  }

  /** The reason for quarantine, or undefined. */
  set(reader: RecordBatchReader, row: number): string | undefined {
    const agent = reader.header(AGENT);
    const incarnation = reader.header(INCARNATION);
    const seq = reader.headerInteger(SEQ);
    this.isForeign = false;
    if (agent !== null && incarnation !== null && !Number.isNaN(seq)) {
      if (!isPlainText(agent) || !isPlainText(incarnation)) return 'headers agent and incarnation are not ASCII text';
      this.#agent.set(row, agent);
      this.#incarnation.set(row, incarnation);
      this.#seq.set(row, seq);
      return undefined;
    }
    if (agent !== null || incarnation !== null || reader.header(SEQ) !== null) {
      return 'headers agent, incarnation and seq are not all there, or seq is not a whole number';
    }
    this.isForeign = true;
    this.#agent.setNull(row);
    this.#incarnation.setNull(row);
    this.#seq.setNull(row);
    return undefined;
  }
}

function isPlainText(bytes: Buffer): boolean {
  if (bytes.length === 0 || bytes.length > TEXT_BYTES_MAX) return false;
  for (let k = 0; k < bytes.length; k++) {
    const byte = bytes[k] ?? 0;
    if (byte < 0x20 || byte > 0x7e) return false;
  }
  return true;
}
