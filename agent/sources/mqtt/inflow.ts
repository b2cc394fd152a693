/**
 * From messages to readings, in the order in which the broker sent them, each acknowledged when it is on the disk.
 *
 * Messages and releases (PUBREL) wait in one queue; while it is full, the connection is not read.
 *
 * What is taken is known by receipts of the spool, stored in the group of the readings: id = packet id, content = `2` or `1` for the quality
 * of service and a hash of topic and payload. Those of QoS 2 stand from PUBLISH to PUBREL, those of QoS 1 as long as the broker may not have
 * the PUBACK (doubts.ts).
 * Invariants
 * - PUBACK and PUBREC are sent after the group is durable, PUBCOMP after the receipt is durably forgotten: the broker may give that packet id
 *   to another message then, and only then.
 * - A message that equals the one of its packet id's receipt is a repeat: at QoS 2 always, at QoS 1 where it has DUP and the PUBACK is in
 *   doubt. Another message under a packet id that was not released is new: no broker may do that, but Mosquitto does when it has more than
 *   65,535 messages for a client.
 * - Acknowledgements are sent in the order of the messages.
 * Failure: a batch that fails ends the source; it starts again from the receipts that the disk has.
 */
import { hash } from 'node:crypto';
import { isUtf8 } from 'node:buffer';
import type { IPublishPacket } from 'mqtt-packet';
import type { Rejected } from '../../quarantine.ts';
import { isSurelyFine, refusal, type NewReading } from '../../spool/frame.ts';
import type { Receipt } from '../../spool/spool-state.ts';
import { DeliveryQueue } from '../delivery-queue.ts';
import { isRejected, parseJson, readingOf, type RejectedInput } from '../reading-parser.ts';
import type { SourceOutput } from '../source.ts';
import type { MqttSourceConfig } from './config.ts';
import type { Connection } from './connection.ts';
import { PubackDoubts, type Doubts } from './doubts.ts';

const QOS_2 = '2';
/** Fixed headers with their remaining length; the packet id follows. A short answer means success also in MQTT 5. */
const PUBACK = 0x40;
const PUBREC = 0x50;
const PUBCOMP = 0x70;
/** Receipts are forgotten with the next readings, or after this long: a quiet source need not write twice for every message. */
const FORGET_AFTER_MS = 5000;
const JSON_NUMBER = /^\s*-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\s*$/;

interface Message {
  readonly packet: IPublishPacket;
  readonly payloadBytes: number;
  readonly connection: Connection;
}
interface Release {
  readonly release: number;
  readonly connection: Connection;
}
/** The broker has answered what was sent behind these PUBACKs. In the queue, because what it sent before that answer is there. */
interface Heard {
  readonly heard: Doubts;
}
/** Nothing has come for a while. */
const QUIET = 'quiet';
/** The broker has a new session: packet ids of what came before mean nothing any more. In the queue, as new messages follow at once. */
const FORGET = 'forget';
type Entry = Message | Release | Heard | typeof QUIET | typeof FORGET;

export class Inflow {
  readonly #source: string;
  readonly #config: MqttSourceConfig;
  readonly #output: SourceOutput;
  readonly #queue: DeliveryQueue<Entry>;
  readonly #doubts: PubackDoubts;
  #forgetTimer: NodeJS.Timeout | undefined;
  #paused: Connection | undefined;

  constructor(
    source: string,
    config: MqttSourceConfig,
    output: SourceOutput,
    doubtsMax: number,
    onFailure: (error: Error) => void,
  ) {
    this.#source = source;
    this.#config = config;
    this.#output = output;
    this.#queue = new DeliveryQueue({
      deliver: (batch) => this.#deliver(batch),
      onRoom: () => {
        this.#paused?.resume();
        this.#paused = undefined;
      },
      onFailure,
    });
    const ofQos1 = [...output.receipts()].filter(([, content]) => !content.startsWith(QOS_2));
    this.#doubts = new PubackDoubts(
      doubtsMax,
      ofQos1.map(([id]) => id),
    );
  }

  message(packet: IPublishPacket, payloadBytes: number, connection: Connection): void {
    this.#queue.push({ packet, payloadBytes, connection }, packet.payload.length);
    if (!this.#queue.isFull) return;
    this.#paused = connection;
    connection.pause();
  }

  release(packetId: number, connection: Connection): void {
    this.#queue.push({ release: packetId, connection }, 0);
  }

  /** The broker has a new session: what was taken in the old one is nothing that it could repeat. */
  forget(): void {
    this.#queue.push(FORGET, 0);
  }

  /** Resolves when nothing waits. Never rejects. */
  idle(): Promise<void> {
    return this.#queue.idle();
  }

  /** When all connections have ended. */
  async close(): Promise<void> {
    await this.idle();
    clearTimeout(this.#forgetTimer);
  }

  async #deliver(batch: readonly Entry[]): Promise<void> {
    const stored = this.#output.receipts();
    const changed = new Map<string, string | null>();
    const readings: NewReading[] = [];
    const rejected: Rejected[] = [];
    const answers = new Map<Connection, { readonly bytes: number[]; readonly doubts: Doubts[number][] }>();
    const arrivalUs = this.#output.clock.nowMs() * 1000;
    for (const entry of batch) {
      if (entry === QUIET) continue;
      if (entry === FORGET) {
        for (const id of [...stored.keys(), ...changed.keys()]) changed.set(id, null);
        this.#doubts.clear();
        continue;
      }
      if ('heard' in entry) {
        this.#doubts.end(entry.heard);
        continue;
      }
      const [answer, id] =
        'release' in entry ? [PUBCOMP, entry.release] : [answerTo(entry.packet), entry.packet.messageId ?? 0];
      if ('release' in entry) {
        const known = changed.has(String(id)) ? changed.get(String(id)) : stored.get(String(id));
        if (known?.startsWith(QOS_2) === true) changed.set(String(id), null);
      } else if (this.#isNew(entry, stored, changed)) this.#read(entry, arrivalUs, readings, rejected);
      if (answer === null) continue;
      const ofConnection = answers.get(entry.connection) ?? { bytes: [], doubts: [] };
      answers.set(entry.connection, ofConnection);
      ofConnection.bytes.push(answer, 2, id >> 8, id & 0xff);
      if (answer === PUBACK) ofConnection.doubts.push(this.#doubts.add(String(id), entry.connection));
    }
    if (batch.every((entry) => typeof entry !== 'string' && 'heard' in entry)) {
      this.#forgetLater();
      return;
    }
    for (const id of this.#doubts.takeOver()) changed.set(id, null);
    await this.#output.quarantine(rejected);
    const receipts = [...changed].map(([id, content]): Receipt => ({ source: this.#source, id, content }));
    await this.#output.deliver(readings, [], receipts);
    // A connection that ended meanwhile takes none: its broker repeats what it did not hear of.
    for (const [connection, { bytes, doubts }] of answers) {
      connection.write(Buffer.from(bytes));
      if (doubts.length > 0) connection.ping(() => this.#queue.push({ heard: doubts }, 0));
    }
  }

  #forgetLater(): void {
    if (!this.#doubts.hasOver) return;
    this.#forgetTimer ??= setTimeout(() => {
      this.#forgetTimer = undefined;
      this.#queue.push(QUIET, 0);
    }, FORGET_AFTER_MS);
  }

  /** Whether a message is no repeat; its receipt is among `changed` then. */
  #isNew(
    { packet, connection }: Message,
    stored: ReadonlyMap<string, string>,
    changed: Map<string, string | null>,
  ): boolean {
    if (packet.qos === 0) return true;
    const id = String(packet.messageId);
    const known = changed.has(id) ? changed.get(id) : stored.get(id);
    const content = `${packet.qos}${hashOf(packet)}`;
    if (known === content && (packet.qos === 2 || (packet.dup && this.#doubts.has(id)))) {
      this.#output.count('repeat');
      return false;
    }
    // Set anew, so that the order stays that of their age.
    changed.delete(id);
    changed.set(id, content);
    this.#doubts.remove(id);
    if (!packet.dup) this.#doubts.endOfRepeats(connection);
    return true;
  }

  #read({ packet, payloadBytes }: Message, arrivalUs: number, readings: NewReading[], rejected: Rejected[]): void {
    if (packet.retain && this.#config.retained === 'skip') {
      this.#output.count('retained_skipped');
      return;
    }
    const payload = typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload;
    const result =
      payloadBytes > payload.length
        ? { reason: `the payload has ${payloadBytes} bytes, more than can be carried; this is its beginning` }
        : this.#parse(packet.topic, payload, arrivalUs);
    const reason = isRejected(result) ? result.reason : isSurelyFine(result) ? null : refusal(result);
    if (reason !== null) rejected.push({ reason, position: packet.topic.slice(0, 1000), input: payload });
    else if (!isRejected(result)) readings.push(result);
  }

  #parse(mqttTopic: string, payload: Buffer, arrivalUs: number): NewReading | RejectedInput {
    const { to: topic, priority, sensor, eventTime } = this.#config;
    const key = sensor === 'topic' ? { text: mqttTopic } : { field: sensor };
    const mapping = { input: 'payload', topic, priority, key, eventTime };
    if (this.#config.payload === 'json') return parseJson(payload, mapping, arrivalUs);
    if (!isUtf8(payload)) return { reason: 'the payload is not UTF-8' };
    const text = payload.toString('utf8');
    // A number keeps its digits.
    if (JSON_NUMBER.test(text)) return parseJson(payload, mapping, arrivalUs);
    return readingOf(JSON.stringify({ value: text }), { value: text }, mapping, arrivalUs);
  }
}

function answerTo({ qos }: IPublishPacket): number | null {
  return qos === 0 ? null : qos === 1 ? PUBACK : PUBREC;
}

function hashOf({ topic, payload }: IPublishPacket): string {
  const text = typeof payload === 'string' ? Buffer.from(payload) : payload;
  return hash('sha256', Buffer.concat([Buffer.from(`${topic}\0`), text]), 'base64url').slice(0, 16);
}
