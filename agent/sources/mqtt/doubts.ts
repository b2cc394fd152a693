/**
 * Which messages of QoS 1 the broker may send again: those that were taken, and whose PUBACK it may not have.
 *
 * Behind a PUBACK, what comes under its packet id is a new message, DUP or not (MQTT 5.0 and 3.1.1, section 4.3.2). Whether a PUBACK arrived
 * before the connection was cut cannot be known, so what equals the last message of its id and has DUP is taken for its repeat, but only while
 * there is that doubt: it may also be another message with the same payload, whose first sending was lost. A doubt ends when
 * - the broker answers a PINGREQ that was sent behind the PUBACK: in one stream of bytes, it has read both;
 * - a new message without DUP comes on a later connection: repeats come before it (sections 4.4 and 4.6);
 * - another message comes under the id.
 * A doubt that ends too early, because a broker does not keep to that, costs a reading that is there twice, never one that is lost.
 * Limits: `max` doubts; the oldest end.
 */
import type { Connection } from './connection.ts';

/** Compared by identity: an id that was used again is another doubt. */
interface Doubt {
  /** Where the PUBACK went; null for a doubt that an earlier run left. */
  readonly connection: Connection | null;
}

export type Doubts = readonly (readonly [id: string, doubt: Doubt])[];

export class PubackDoubts {
  readonly #max: number;
  /** The oldest first. */
  readonly #byId = new Map<string, Doubt>();
  /** Receipts that nobody needs any more. */
  readonly #over = new Set<string>();

  constructor(max: number, ids: Iterable<string>) {
    this.#max = max;
    for (const id of ids) this.add(id, null);
  }

  has(id: string): boolean {
    return this.#byId.has(id);
  }

  add(id: string, connection: Connection | null): Doubts[number] {
    const doubt = { connection };
    this.remove(id);
    this.#byId.set(id, doubt);
    for (const oldest of this.#byId.keys()) {
      if (this.#byId.size <= this.#max) break;
      this.#end(oldest);
    }
    return [id, doubt];
  }

  /** Another message has the id, with a receipt of its own. */
  remove(id: string): void {
    this.#byId.delete(id);
    this.#over.delete(id);
  }

  /** The broker has the PUBACKs of these. */
  end(doubts: Doubts): void {
    for (const [id, doubt] of doubts) if (this.#byId.get(id) === doubt) this.#end(id);
  }

  /** The broker sends new messages on this connection: what it had to repeat has come. */
  endOfRepeats(connection: Connection): void {
    for (const [id, doubt] of this.#byId) {
      // The oldest first, and connections follow each other.
      if (doubt.connection === connection) return;
      this.#end(id);
    }
  }

  clear(): void {
    this.#byId.clear();
    this.#over.clear();
  }

  get hasOver(): boolean {
    return this.#over.size > 0;
  }

  /** The ids whose receipts are to be forgotten: each is told once. */
  takeOver(): readonly string[] {
    const ids = [...this.#over];
    this.#over.clear();
    return ids;
  }

  #end(id: string): void {
    this.#byId.delete(id);
    this.#over.add(id);
  }
}
