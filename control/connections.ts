/**
 * The three ports as the control plane holds them: opened, probed, and opened again when they were lost, so that the server outlives
 * an outage of any of them and can say what is down and since when. Servers of one volume tell each other over the engine's change feed what must be known at once.
 *
 * Invariants: `get()` gives a port that answered its last probe, or throws `unavailable` with the reason; a port that is replaced is
 * closed. Failure: a probe that hangs counts as down after PROBE_MS; the next round tries again, and goes on waiting for what is being opened.
 * Limits: one probe of a port at a time, every PROBE_EVERY_MS.
 */
import type { Clock } from '../lib/clock.ts';
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { describeError, isCode, PenstockError } from '../lib/errors.ts';
import { catalogOf, openLakeStore, volumeOf } from '../lib/lake/ports.ts';
import type { Log } from '../lib/log/log.ts';
import type { MetaEngine } from '../lib/meta/engine.ts';
import { absoluteUrl, openLog, openMeta } from '../lib/registry.ts';
import type { ObjectStore } from '../lib/store/store.ts';
import { OwnTimeout } from '../lib/own-timeout.ts';
import type { ForeignCatalog } from '../lib/table/foreign/foreign-catalog.ts';
import type { LakeContext } from '../lib/table/table.ts';
import { withoutCredentials } from '../lib/urls.ts';
import { VolumeKeys } from '../lib/volume/keys.ts';

const PROBE_EVERY_MS = 3000;
/** Longer than a slow answer of a healthy service, shorter than a person's patience with a page. */
const PROBE_MS = 5000;
/** At the start an engine that is late is waited for as long as that many probes: on a machine with much else to do, ending and beginning anew takes longer. */
const START_ROUNDS = 12;
/** The control plane commits little and may be busy answering: no reason to be fenced. */
const LEASE_MS = 30_000;

export interface PortHealth {
  readonly name: 'engine' | 'store' | 'log';
  readonly url: string;
  readonly ok: boolean;
  /** Since when it is as it is, wall clock. */
  readonly sinceMs: number;
  readonly problem: string | null;
}

export interface FeedListener {
  onMessage(message: Buffer): void;
  /** Messages may have been missed. */
  onGap(): void;
}

interface Closable {
  readonly url: string;
  close(): Promise<void>;
}

class Connection<T extends Closable> {
  readonly #name: PortHealth['name'];
  readonly #open: () => Promise<T>;
  readonly #probe: (port: T) => Promise<unknown>;
  readonly #clock: Clock;
  readonly #configured: string;
  #port: T | undefined;
  /** Late is not lost: the next round waits on for it, and what it opens is used, and closed. */
  #opening: Promise<T> | undefined;
  #health: { ok: boolean; sinceMs: number; problem: string | null };
  #isLate = false;
  #checking: Promise<void> | undefined;
  #closed = false;

  constructor(options: {
    readonly name: PortHealth['name'];
    readonly configured: string;
    readonly open: () => Promise<T>;
    /** Throws when the port is of no use. */
    readonly probe: (port: T) => Promise<unknown>;
    readonly clock: Clock;
  }) {
    this.#name = options.name;
    this.#configured = options.configured;
    this.#open = options.open;
    this.#probe = options.probe;
    this.#clock = options.clock;
    this.#health = { ok: false, sinceMs: options.clock.nowMs(), problem: 'not opened yet' };
  }

  get health(): PortHealth {
    return { name: this.#name, url: this.#port?.url ?? this.#configured, ...this.#health };
  }

  /** The last round ended without an answer, neither a good one nor an error. */
  get isLate(): boolean {
    return this.#isLate;
  }

  get(): T {
    if (this.#port !== undefined && this.#health.ok) return this.#port;
    const since = new Date(this.#health.sinceMs).toISOString();
    throw new PenstockError('unavailable', `the ${this.#name} is down since ${since}: ${this.#health.problem ?? ''}`);
  }

  /** Never throws; the outcome is in `health`. A round under way is joined. */
  check(): Promise<void> {
    return (this.#checking ??= this.#check().finally(() => (this.#checking = undefined)));
  }

  async #check(): Promise<void> {
    if (this.#closed) return;
    try {
      const port = this.#port ?? (await withDeadline(this.#openOne()));
      await withDeadline(this.#probe(port));
      this.#isLate = false;
      this.#set(true, null);
    } catch (error) {
      this.#isLate = isCode(error, 'timeout');
      this.#set(false, describeError(error));
      const lost = this.#port;
      if (lost !== undefined && 'lost' in lost && lost.lost instanceof AbortSignal && lost.lost.aborted) {
        this.#port = undefined;
        // It is lost already; how its end goes changes nothing.
        await lost.close().catch(() => undefined);
      }
    }
  }

  #openOne(): Promise<T> {
    return (this.#opening ??= Promise.resolve()
      .then(() => this.#open())
      .then((port) => (this.#port = port))
      .finally(() => (this.#opening = undefined)));
  }

  #set(ok: boolean, problem: string | null): void {
    const sinceMs = ok === this.#health.ok ? this.#health.sinceMs : this.#clock.nowMs();
    this.#health = { ok, sinceMs, problem };
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#checking;
    await this.#opening?.catch(() => undefined);
    await this.#port?.close();
  }
}

async function withDeadline<T>(work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timeout = new OwnTimeout(PROBE_MS, () =>
    late.reject(new PenstockError('timeout', `no answer within ${PROBE_MS} ms`)),
  );
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    timeout.clear();
  }
}

export class Connections {
  readonly volume: string;
  readonly #clock: Clock;
  readonly #catalog: ForeignCatalog | undefined;
  readonly #engine: Connection<MetaEngine>;
  readonly #store: Connection<ObjectStore>;
  readonly #log: Connection<Log>;
  readonly #timer: NodeJS.Timeout;
  /** Of the change feed among the servers of the volume. */
  readonly feedShard: string;
  readonly #listeners = new Set<FeedListener>();

  private constructor(config: PipelineConfig, baseDir: string, clock: Clock) {
    this.volume = volumeOf(config);
    this.feedShard = `{${this.volume}}control`;
    this.#clock = clock;
    this.#catalog = catalogOf(config, baseDir);
    const { formatKey } = new VolumeKeys(this.volume);
    this.#engine = new Connection({
      name: 'engine',
      configured: withoutCredentials(config.meta),
      open: async () => {
        const engine = await openMeta(absoluteUrl(config.meta, baseDir), { kind: 'control', leaseMs: LEASE_MS });
        return this.#listenOn(engine);
      },
      probe: async (engine) => {
        engine.lost.throwIfAborted();
        await engine.read([formatKey]);
      },
      clock,
    });
    this.#store = new Connection({
      name: 'store',
      configured: withoutCredentials(config.store),
      open: () => openLakeStore(config, baseDir, this.#catalog, clock),
      probe: (store) => store.head('penstock/probe'),
      clock,
    });
    this.#log = new Connection({
      name: 'log',
      configured: withoutCredentials(config.log),
      open: () => openLog(absoluteUrl(config.log, baseDir)),
      probe: (log) => log.topics(),
      clock,
    });
    this.#timer = setInterval(() => void this.check(), PROBE_EVERY_MS).unref();
  }

  /** Waits for the first round. The engine must answer (it decides who may do what); store and log may come later. Throws `unavailable`. */
  static async open(config: PipelineConfig, baseDir: string, clock: Clock): Promise<Connections> {
    const connections = new Connections(config, baseDir, clock);
    await connections.check();
    for (let round = 1; round < START_ROUNDS && connections.#engine.isLate; round++) await connections.#engine.check();
    try {
      connections.#engine.get();
    } catch (error) {
      await connections.close();
      throw error;
    }
    return connections;
  }

  get health(): readonly PortHealth[] {
    return [this.#engine.health, this.#store.health, this.#log.health];
  }

  get engine(): MetaEngine {
    return this.#engine.get();
  }

  get log(): Log {
    return this.#log.get();
  }

  listen(listener: FeedListener): void {
    this.#listeners.add(listener);
  }

  /** Before anything is read from it, so that whatever changes later is heard of. */
  async #listenOn(engine: MetaEngine): Promise<MetaEngine> {
    try {
      await engine.subscribe([this.feedShard], {
        onMessage: (_shard, message) => this.#listeners.forEach((listener) => listener.onMessage(message)),
        onGap: () => this.#listeners.forEach((listener) => listener.onGap()),
      });
    } catch (error) {
      await engine.close().catch(() => undefined);
      throw error;
    }
    for (const listener of this.#listeners) listener.onGap();
    return engine;
  }

  get lake(): LakeContext {
    return {
      engine: this.#engine.get(),
      store: this.#store.get(),
      volume: this.volume,
      clock: this.#clock,
      ...(this.#catalog && { catalog: this.#catalog }),
    };
  }

  async check(): Promise<void> {
    await Promise.all([this.#engine.check(), this.#store.check(), this.#log.check()]);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([this.#engine.close(), this.#store.close(), this.#log.close()]);
  }
}
