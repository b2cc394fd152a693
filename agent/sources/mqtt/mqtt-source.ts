/**
 * Messages of an MQTT broker (3.1.1 or 5), in a session that outlives connections and the agent.
 *
 * Invariants: see inflow.ts for what is acknowledged when. What the broker is asked to subscribe is on the disk before it is asked, so that
 * subscriptions which the configuration no longer has are ended, whenever the agent was killed. A session is taken for one that has them only where it
 * is known not to have been made behind a CONNACK that never came or was not stored: MQTT 5 subscribes at every connection; 3.1.1, which sends what is
 * retained each time, only in doubt, and puts on the disk before it connects that there is doubt.
 * Failure: a connection that ends is made again with backoff; the broker keeps the session and what was not acknowledged. A broker that
 * lost the session (session present: 0) begins with new packet ids, so the old receipts are forgotten first.
 */
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { describeError, isCode } from '../../../lib/errors.ts';
import { configuredFile } from '../../config-parts.ts';
import { Backoff } from '../../uplink/backoff.ts';
import type { Source, SourceOutput } from '../source.ts';
import { brokerAddress, type MqttSourceConfig } from './config.ts';
import type { IConnackPacket } from 'mqtt-packet';
import { Connection, type ConnectionOptions } from './connection.ts';
import { Inflow } from './inflow.ts';
import { reasonCodeText } from './reasons.ts';
import { SilentFilters } from './silent-filters.ts';

const RECONNECT_MS_MIN = 200;
const RECONNECT_MS_MAX = 30_000;
const REFUSED = 0x80;
/** Long enough for most sensors to have sent something. */
const SILENT_AFTER_MS = 600_000;
const SILENT_LOOK_EVERY_MS = 1000;
/** Of filters, in one text. */
const NAMED_MAX = 10;

const subscriptionsSchema = z.strictObject({
  /** `FILTER@QOS`, as the broker granted or might have. */
  asked: z.array(z.string()),
  granted: z.array(z.string()),
  /** Of these, what the broker granted with a lower QoS than was asked for, as `FILTER@QOS` with that one. */
  lowered: z.array(z.string()).default([]),
  /** The broker may have made a new session since, which has none of them. */
  unsure: z.boolean().default(false),
});
type Subscriptions = z.infer<typeof subscriptionsSchema>;
const NONE: Subscriptions = { asked: [], granted: [], lowered: [], unsure: false };

/** `receiptsMax`: the receipts that the spool has room for. */
export function mqttSource(config: MqttSourceConfig, agent: string, baseDir: string, receiptsMax: number): Source {
  const { host, port } = brokerAddress(config);
  const clientId = config.clientId ?? `penstock-${agent}`;
  const name = `mqtt:${host}:${port}/${clientId}`;
  return {
    name,
    run: (output, signal) => new MqttSession(name, clientId, config, baseDir, output, receiptsMax).run(signal),
  };
}

class MqttSession {
  readonly #name: string;
  readonly #clientId: string;
  readonly #config: MqttSourceConfig;
  readonly #baseDir: string;
  readonly #output: SourceOutput;
  readonly #receiveMaximum: number;
  readonly #inflow: Inflow;
  readonly #silent: SilentFilters;
  /** By filter, why the broker did not grant it on the present connection. */
  readonly #refused = new Map<string, string>();
  /** Whether the session may be a new one of which the broker could not tell; what the disk says of it is on the safe side. */
  #isUnsure: boolean;
  /** Fires when the agent stops or a delivery failed. */
  readonly #stop = new AbortController();
  #failure: Error | undefined;

  constructor(
    name: string,
    clientId: string,
    config: MqttSourceConfig,
    baseDir: string,
    output: SourceOutput,
    receiptsMax: number,
  ) {
    this.#name = name;
    this.#clientId = clientId;
    this.#config = config;
    this.#baseDir = baseDir;
    this.#output = output;
    this.#isUnsure = this.#stored().unsure;
    // Of both qualities of service: half of the receipts each.
    this.#silent = new SilentFilters(config.topics);
    this.#receiveMaximum = Math.max(1, Math.min(config.receiveMaximum, Math.floor(receiptsMax / 2)));
    // Many more than what may be under way: Mosquitto 2.0 does not keep to it when it is overloaded. They are half as large as others.
    const doubtsMax = Math.max(1, 2 * receiptsMax - this.#receiveMaximum);
    this.#inflow = new Inflow(name, config, output, doubtsMax, (error) => {
      this.#failure = error;
      this.#stop.abort();
    });
  }

  async run(agentSignal: AbortSignal): Promise<void> {
    const stop = (): void => this.#stop.abort();
    agentSignal.addEventListener('abort', stop, { once: true });
    if (agentSignal.aborted) stop();
    const { signal } = this.#stop;
    const startedMs = this.#output.clock.monotonicMs();
    const silence = setInterval(() => {
      if (this.#output.clock.monotonicMs() - startedMs >= SILENT_AFTER_MS) this.#remarkSilence();
    }, SILENT_LOOK_EVERY_MS);
    const backoff = new Backoff({ minMs: RECONNECT_MS_MIN, maxMs: RECONNECT_MS_MAX, random: Math.random });
    try {
      for (let attempt = 0; !signal.aborted; attempt += 1) {
        try {
          if (await this.#connect(signal)) attempt = 0;
        } catch (error) {
          this.#output.report(describeError(error));
        }
        await backoff.wait(attempt, signal);
      }
    } finally {
      clearInterval(silence);
      agentSignal.removeEventListener('abort', stop);
      await this.#inflow.close();
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** One connection from its beginning to its end. Returns whether the session was up. */
  async #connect(signal: AbortSignal): Promise<boolean> {
    const wasUnsure = this.#isUnsure;
    if (this.#config.version === '3.1.1') await this.#store({ ...this.#stored(), unsure: true });
    const { connection, connack } = await Connection.open(await this.#options(signal)).catch((error: unknown) => {
      // Who is refused has no new session.
      if (isCode(error, 'denied')) this.#isUnsure = wasUnsure;
      throw error;
    });
    this.#output.count('connection');
    const stop = (): void => void this.#finish(connection);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    try {
      await this.#settleSession(connack.sessionPresent, wasUnsure);
      const problems = [await this.#subscribe(connection), shortenedSession(connack, this.#config)];
      this.#output.report(problems.filter((problem) => problem !== null).join('; ') || null);
    } catch (error) {
      connection.end(error instanceof Error ? error : new Error(String(error)));
      await connection.closed;
      throw error;
    } finally {
      void connection.closed.then(() => signal.removeEventListener('abort', stop));
    }
    const reason = await connection.closed;
    if (reason !== null) this.#output.report(describeError(reason));
    return true;
  }

  /** What is being written is still acknowledged; the rest stays with the broker. */
  async #finish(connection: Connection): Promise<void> {
    connection.pause();
    await this.#inflow.idle();
    connection.end(null);
  }

  async #options(signal: AbortSignal): Promise<ConnectionOptions> {
    const { version, user, passwordFile, keepAlive, sessionExpiry, tls: files } = this.#config;
    const { host, port, tls } = brokerAddress(this.#config);
    const read = async (path: string | undefined, key: string): Promise<Buffer | undefined> =>
      path === undefined ? undefined : configuredFile(this.#baseDir, path, key);
    const [password, ca, cert, key] = await Promise.all([
      read(passwordFile, 'passwordFile'),
      read(files?.ca, 'tls.ca'),
      read(files?.cert, 'tls.cert'),
      read(files?.key, 'tls.key'),
    ]);
    return {
      ...{ host, port, version, keepAliveMs: keepAlive, clock: this.#output.clock, signal },
      tls: tls ? { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) } : null,
      connect: {
        clientId: this.#clientId,
        clean: false,
        keepalive: Math.round(keepAlive / 1000),
        ...(user === undefined ? {} : { username: user }),
        ...(password === undefined ? {} : { password: withoutLineEnd(password) }),
        ...(version === '5' && {
          properties: {
            sessionExpiryInterval: Math.round(sessionExpiry / 1000),
            receiveMaximum: this.#receiveMaximum,
          },
        }),
      },
      onPublish: (packet, payloadBytes, connection) => {
        this.#silent.heard(packet.topic);
        this.#inflow.message(packet, payloadBytes, connection);
      },
      onRelease: (packetId, connection) => this.#inflow.release(packetId, connection),
      onGreet: () => (this.#isUnsure = true),
      onAccept: ({ sessionPresent }) => {
        if (!sessionPresent) this.#inflow.forget();
      },
    };
  }

  /**
   * What the disk says of the session is true from here on. Nothing is subscribed in a new one before the old receipts are forgotten on the disk:
   * killed, the agent would take new messages for repeats.
   */
  async #settleSession(isPresent: boolean, wasUnsure: boolean): Promise<void> {
    if (!isPresent) {
      await this.#inflow.idle();
      if (this.#failure !== undefined) throw this.#failure;
    }
    const stored = this.#stored();
    const { asked, granted } = stored;
    await this.#store(
      !isPresent
        ? NONE
        : wasUnsure
          ? { ...NONE, asked: [...new Set([...asked, ...granted])] }
          : { ...stored, unsure: false },
    );
    this.#isUnsure = false;
  }

  /** Returns what the broker did not grant, in words, or null. */
  async #subscribe(connection: Connection): Promise<string | null> {
    const { topics, qos, retained, version } = this.#config;
    const stored = this.#stored();
    const wanted = topics.map((filter) => `${filter}@${qos}`);
    const isKnown = (filter: string): boolean => topics.includes(filter);
    const gone = [...new Set([...stored.asked, ...stored.granted].map(filterOf))].filter((filter) => !isKnown(filter));
    if (gone.length > 0)
      await connection.request((messageId) => ({ cmd: 'unsubscribe', messageId, unsubscriptions: gone }));
    // MQTT 5 can say that only a new subscription gets what is retained; 3.1.1 sends it at every SUBSCRIBE, so there is none without need.
    const missing = version === '5' ? topics : topics.filter((filter) => !stored.granted.includes(`${filter}@${qos}`));
    const isKept = (entry: string): boolean => isKnown(filterOf(entry)) && !missing.includes(filterOf(entry));
    const granted = stored.granted.filter(isKept);
    const lowered = stored.lowered.filter(isKept);
    this.#refused.clear();
    if (missing.length > 0) {
      if (!wanted.every((entry) => stored.asked.includes(entry)))
        await this.#store({ ...stored, asked: wanted, granted, lowered });
      const options = version === '5' ? { rh: retained === 'skip' ? 2 : 1 } : {};
      const subscriptions = missing.map((filter) => ({ topic: filter, qos, ...options }));
      const answer = await connection.request((messageId) => ({ cmd: 'subscribe', messageId, subscriptions }));
      missing.forEach((filter, index) => {
        const code = Number(answer.granted[index] ?? REFUSED);
        if (code >= REFUSED) this.#refused.set(filter, reasonCodeText(code));
        else granted.push(`${filter}@${qos}`);
        if (code < qos) lowered.push(`${filter}@${code}`);
      });
      await this.#store({ ...stored, asked: wanted, granted, lowered });
    } else if (gone.length > 0) await this.#store({ ...stored, asked: [], granted, lowered });
    const problems = [
      ...[...this.#refused].map(([filter, why]) => `the broker refused ${filter}: ${why}`),
      ...lowered.map((entry) => `the broker grants QoS ${entry.at(-1)} instead of ${qos} for ${filterOf(entry)}`),
    ];
    return problems.length === 0 ? null : named(problems, '; ');
  }

  /** Those that were refused are a problem already. */
  #remarkSilence(): void {
    const silent = this.#silent.filters.filter((filter) => !this.#refused.has(filter));
    this.#output.remark(
      silent.length === 0
        ? null
        : `no message has matched ${named(silent, ', ')} since the start: is the filter right, and may this client read it?`,
    );
  }

  #stored(): Subscriptions {
    return subscriptionsSchema.safeParse(this.#output.checkpoint(this.#name)).data ?? NONE;
  }

  async #store(subscriptions: Subscriptions): Promise<void> {
    if (isDeepStrictEqual(subscriptions, this.#stored())) return;
    await this.#output.deliver([], [{ source: this.#name, state: subscriptions }]);
  }
}

/** MQTT 5.0, section 3.2.2.3.2: a broker that keeps a session for another time than it was asked for says so. */
function shortenedSession({ properties }: IConnackPacket, { sessionExpiry }: MqttSourceConfig): string | null {
  const [kept, asked] = [properties?.sessionExpiryInterval, Math.round(sessionExpiry / 1000)];
  return kept === undefined || kept >= asked
    ? null
    : `the broker keeps the session for ${kept} s instead of ${asked} s: it drops what comes while the agent is away for longer`;
}

function named(texts: readonly string[], separator: string): string {
  const others = texts.length > NAMED_MAX ? ` and ${texts.length - NAMED_MAX} more` : '';
  return `${texts.slice(0, NAMED_MAX).join(separator)}${others}`;
}

function filterOf(entry: string): string {
  return entry.slice(0, entry.lastIndexOf('@'));
}

/** Editors end files with one. */
function withoutLineEnd(password: Buffer): Buffer {
  return Buffer.from(password.toString('utf8').replace(/\r?\n$/, ''));
}
