/**
 * From the bytes of a connection to whole packets, in bounded memory: of a PUBLISH that is larger than any reading can be, only the
 * beginning is kept (for the quarantine), and the rest is counted.
 *
 *   packet    0  u8      type << 4 | flags (PUBLISH: dup << 3 | qos << 1 | retain)
 *             1  varint  remaining bytes, 7 bits a byte, the lowest first, at most four
 *                ...
 *   PUBLISH      u16     topic bytes, topic; u16 packet id (QoS 1, 2); MQTT 5: varint and properties; payload
 *
 * Limits: PACKET_BYTES_MAX; larger packets of another type are an error, as no broker has a reason to send them.
 */
import type { IPublishPacket } from 'mqtt-packet';
import { PenstockError } from '../../../lib/errors.ts';
import { READING_BYTES_MAX } from '../../spool/frame.ts';

/** A reading, its topic and properties. */
const PACKET_BYTES_MAX = READING_BYTES_MAX + 2 * 65_535;
/** What is kept of a larger one: its topic, and enough to recognise it. */
const KEPT_BYTES = 128 * 1024;
const PUBLISH = 3;
const TOO_LARGE = Symbol('too large');

export interface CutPublish {
  readonly [TOO_LARGE]: true;
  /** `payload` is its beginning. */
  readonly packet: IPublishPacket;
  readonly payloadBytes: number;
}

/** The bytes of a packet, or what is left of one that is too large. */
export type CutPacket = Buffer | CutPublish;

export function isTooLarge(packet: CutPacket): packet is CutPublish {
  return TOO_LARGE in packet;
}

interface Header {
  readonly type: number;
  readonly bytes: number;
  readonly packetBytes: number;
}

export class PacketCutter {
  readonly #version: '5' | '3.1.1';
  /** What is kept of the present packet. */
  #chunks: Buffer[] = [];
  #bytes = 0;
  #header: Header | undefined;
  /** Bytes of it that are still to come and not kept. */
  #skipping = 0;

  constructor(version: '5' | '3.1.1') {
    this.#version = version;
  }

  /** Throws `corrupt` for what is no MQTT. The buffer must not be written again. */
  *push(chunk: Buffer): Iterable<CutPacket> {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#skipping === 0) {
        const header = (this.#header ??= this.#parseHeader(rest));
        // Less than a header is there.
        const wanted = header === undefined ? rest.length : keptBytes(header) - this.#bytes;
        const taken = rest.subarray(0, wanted);
        rest = rest.subarray(taken.length);
        this.#chunks.push(taken);
        this.#bytes += taken.length;
        if (header === undefined || taken.length < wanted) return;
        this.#skipping = header.packetBytes - this.#bytes;
        if (this.#skipping === 0) yield this.#take();
      } else {
        const skipped = Math.min(this.#skipping, rest.length);
        this.#skipping -= skipped;
        rest = rest.subarray(skipped);
        if (this.#skipping === 0) yield this.#endTooLarge();
      }
    }
  }

  #parseHeader(rest: Buffer): Header | undefined {
    // What is kept without a header are four bytes at most.
    const bytes = this.#bytes === 0 ? rest : Buffer.concat([...this.#chunks, rest.subarray(0, 5)]);
    const remaining = parseVarint(bytes, 1);
    if (remaining === undefined) return undefined;
    const type = bytes.readUInt8(0) >> 4;
    const packetBytes = 1 + remaining.bytes + remaining.value;
    if (packetBytes > PACKET_BYTES_MAX && type !== PUBLISH) {
      throw new PenstockError('corrupt', `the broker sent a packet of type ${type} with ${packetBytes} bytes`);
    }
    return { type, bytes: 1 + remaining.bytes, packetBytes };
  }

  #take(): Buffer {
    const [first] = this.#chunks;
    const packet = this.#chunks.length === 1 && first !== undefined ? first : Buffer.concat(this.#chunks, this.#bytes);
    this.#chunks = [];
    this.#bytes = 0;
    this.#header = undefined;
    return packet;
  }

  #endTooLarge(): CutPublish {
    const { bytes: headerBytes = 0, packetBytes = 0 } = this.#header ?? {};
    const bytes = this.#take();
    const flags = bytes.readUInt8(0);
    const qos = ((flags >> 1) & 3) as 0 | 1 | 2; // 3 is refused below
    const topicEnd = headerBytes + 2 + bytes.readUInt16BE(headerBytes);
    let payloadStart = topicEnd + (qos > 0 ? 2 : 0);
    if (this.#version === '5') {
      const properties = parseVarint(bytes, payloadStart);
      payloadStart = Math.min(
        packetBytes,
        payloadStart + (properties === undefined ? 1 : properties.bytes + properties.value),
      );
    }
    if (qos > 2) throw new PenstockError('corrupt', 'the broker sent a message with QoS 3');
    const packet: IPublishPacket = {
      cmd: 'publish',
      topic: bytes.toString('utf8', headerBytes + 2, topicEnd),
      payload: bytes.subarray(payloadStart),
      qos,
      dup: (flags & 8) !== 0,
      retain: (flags & 1) !== 0,
      ...(qos > 0 ? { messageId: bytes.readUInt16BE(topicEnd) } : {}),
    };
    return { [TOO_LARGE]: true, packet, payloadBytes: packetBytes - payloadStart };
  }
}

function keptBytes({ packetBytes }: Header): number {
  return packetBytes > PACKET_BYTES_MAX ? KEPT_BYTES : packetBytes;
}

/** undefined when its end is not there yet. Throws `corrupt` above four bytes. */
function parseVarint(bytes: Buffer, start: number): { value: number; bytes: number } | undefined {
  let value = 0;
  for (let index = 0; index < 4; index += 1) {
    const byte = bytes[start + index];
    if (byte === undefined) return undefined;
    value += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) return { value, bytes: index + 1 };
  }
  throw new PenstockError('corrupt', 'the broker sent a packet whose length is none');
}
