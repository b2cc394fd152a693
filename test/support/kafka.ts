/**
 * A real Kafka broker: one node, KRaft, on free ports of the loopback interface, everything in one temporary folder. Its output goes
 * to `broker.log` there, so that a child that outlives a crash of the runner holds none of its pipes.
 *
 * Three listeners: one without any security; with `secure`, SASL_SSL and SASL_PLAINTEXT beside it, for SCRAM-SHA-256, SCRAM-SHA-512 and
 * PLAIN, user `alice`, password `alice-secret`.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { requireService } from './services.ts';
import { makeTempDir } from './temp.ts';
import { HANG_MS } from './hang.ts';
import { freePorts } from './ports.ts';

const KEYSTORE_PASSWORD = 'keystore';
const JAVA_OPTIONS = [
  ...['-Xmx512m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'],
  '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
];

export const KAFKA_USER = 'alice';
export const KAFKA_PASSWORD = 'alice-secret';

export interface KafkaOptions {
  readonly secure?: boolean;
  /** It is a further broker of this one's cluster. */
  readonly joins?: { readonly broker: KafkaBroker; readonly nodeId: number };
}

export class KafkaBroker {
  readonly dir = makeTempDir('kafka');
  #ports = { plain: 0, controller: 0, tls: 0, sasl: 0 };
  #child: ChildProcess | undefined;

  static async start(options: KafkaOptions = {}): Promise<KafkaBroker> {
    const broker = new KafkaBroker();
    try {
      await broker.#prepare(options);
      await broker.start();
    } catch (error) {
      await broker.close();
      throw error;
    }
    return broker;
  }

  /** `host:port` of the listener without security. */
  get plain(): string {
    return `127.0.0.1:${this.#ports.plain}`;
  }

  /** `host:port` of the SASL_SSL listener. */
  get tls(): string {
    return `127.0.0.1:${this.#ports.tls}`;
  }

  /** `host:port` of the SASL_PLAINTEXT listener. */
  get sasl(): string {
    return `127.0.0.1:${this.#ports.sasl}`;
  }

  /** The certificate that signed the broker's (its own). */
  get caFile(): string {
    return join(this.dir, 'ca.pem');
  }

  /** Starts (or starts again, on the same data and ports) and waits until it answers. */
  async start(): Promise<void> {
    const child = this.#java('kafka.Kafka', [join(this.dir, 'server.properties')]);
    this.#child = child;
    await once(child, 'spawn');
    const deadline = performance.now() + HANG_MS;
    while (!(await answers(this.#ports.plain))) {
      if (child.exitCode !== null || performance.now() > deadline) {
        throw new Error(`the Kafka broker did not start:\n${readFileSync(join(this.dir, 'broker.log'), 'utf8')}`);
      }
      await delay(50);
    }
  }

  /** Further lines of `server.properties`, from the next start on. */
  configure(properties: Readonly<Record<string, string>>): void {
    const lines = Object.entries(properties).map(([key, value]) => `${key}=${value}\n`);
    appendFileSync(join(this.dir, 'server.properties'), lines.join(''));
  }

  /** kill -9, and waits until the process is gone. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async stop(): Promise<void> {
    await this.#end('SIGTERM');
  }

  /** Ends the process and removes its folder. */
  async close(): Promise<void> {
    await this.kill();
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 3 });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const timer = setTimeout(() => child.kill('SIGKILL'), HANG_MS);
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
    clearTimeout(timer);
  }

  async #prepare({ secure = false, joins }: KafkaOptions): Promise<void> {
    const [plain = 0, controller = 0, tls = 0, sasl = 0] = await freePorts(4);
    this.#ports = { plain, controller, tls, sasl };
    mkdirSync(join(this.dir, 'data'));
    if (secure) await this.makeCertificate([]);
    const all = {
      ...this.#properties(),
      ...(secure ? this.#secureProperties() : {}),
      ...(joins ? this.#memberProperties(joins.broker.#ports.controller, joins.nodeId) : {}),
    };
    const lines = Object.entries(all).map(([key, value]) => `${key}=${value}`);
    writeFileSync(join(this.dir, 'server.properties'), `${lines.join('\n')}\n`);
    const scram = ['SCRAM-SHA-256', 'SCRAM-SHA-512'].flatMap((mechanism) => [
      '--add-scram',
      `${mechanism}=[name=${KAFKA_USER},password=${KAFKA_PASSWORD}]`,
    ]);
    await this.#run(
      this.#java('kafka.tools.StorageTool', [
        ...['format', '-t', 'MkU3OEVBNTcwNTJENDM2Qg', '-c', join(this.dir, 'server.properties')],
        ...(secure ? scram : []),
      ]),
      'formatting the storage',
    );
  }

  /** A self-signed certificate of 127.0.0.1 and localhost; `validity`: further arguments of keytool, such as `-startdate -3d -validity 1`. */
  async makeCertificate(validity: readonly string[]): Promise<void> {
    const store = join(this.dir, 'keystore.p12');
    rmSync(store, { force: true });
    const common = ['-keystore', store, '-storetype', 'PKCS12', '-storepass', KEYSTORE_PASSWORD, '-alias', 'broker'];
    const identity = ['-keyalg', 'EC', '-dname', 'CN=localhost', '-ext', 'SAN=ip:127.0.0.1,dns:localhost'];
    await this.#run(this.#spawn('keytool', ['-genkeypair', ...common, ...identity, ...validity]), 'making a key');
    const exported = ['-exportcert', '-rfc', '-file', this.caFile, ...common];
    await this.#run(this.#spawn('keytool', exported), 'exporting the certificate');
  }

  #properties(): Record<string, string> {
    const { plain, controller } = this.#ports;
    return {
      'process.roles': 'broker,controller',
      'node.id': '1',
      'controller.quorum.voters': `1@127.0.0.1:${controller}`,
      listeners: `PLAINTEXT://127.0.0.1:${plain},CONTROLLER://127.0.0.1:${controller}`,
      'advertised.listeners': `PLAINTEXT://127.0.0.1:${plain}`,
      'controller.listener.names': 'CONTROLLER',
      'inter.broker.listener.name': 'PLAINTEXT',
      'listener.security.protocol.map':
        'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT',
      'log.dirs': join(this.dir, 'data'),
      'auto.create.topics.enable': 'false',
      'offsets.topic.replication.factor': '1',
      'offsets.topic.num.partitions': '1',
      'transaction.state.log.replication.factor': '1',
      'transaction.state.log.min.isr': '1',
      'group.initial.rebalance.delay.ms': '0',
      'num.network.threads': '1',
      'num.io.threads': '2',
      'log.cleaner.enable': 'false',
      // After a kill the controller takes the same broker again only when its old session is over.
      'broker.session.timeout.ms': '1500',
      'broker.heartbeat.interval.ms': '300',
    };
  }

  #memberProperties(controller: number, nodeId: number): Record<string, string> {
    return {
      'process.roles': 'broker',
      'node.id': String(nodeId),
      'controller.quorum.voters': `1@127.0.0.1:${controller}`,
      listeners: `PLAINTEXT://127.0.0.1:${this.#ports.plain}`,
    };
  }

  #secureProperties(): Record<string, string> {
    const { plain, controller, tls, sasl } = this.#ports;
    const security = 'org.apache.kafka.common.security';
    const properties: Record<string, string> = {
      listeners: `PLAINTEXT://127.0.0.1:${plain},CONTROLLER://127.0.0.1:${controller},SASL_SSL://127.0.0.1:${tls},SASL_PLAINTEXT://127.0.0.1:${sasl}`,
      'advertised.listeners': `PLAINTEXT://127.0.0.1:${plain},SASL_SSL://127.0.0.1:${tls},SASL_PLAINTEXT://127.0.0.1:${sasl}`,
      'sasl.enabled.mechanisms': 'SCRAM-SHA-256,SCRAM-SHA-512,PLAIN',
      'ssl.keystore.type': 'PKCS12',
      'ssl.keystore.location': join(this.dir, 'keystore.p12'),
      'ssl.keystore.password': KEYSTORE_PASSWORD,
      'ssl.key.password': KEYSTORE_PASSWORD,
    };
    for (const listener of ['sasl_ssl', 'sasl_plaintext']) {
      const prefix = `listener.name.${listener}`;
      for (const mechanism of ['scram-sha-256', 'scram-sha-512']) {
        properties[`${prefix}.${mechanism}.sasl.jaas.config`] = `${security}.scram.ScramLoginModule required;`;
      }
      properties[`${prefix}.plain.sasl.jaas.config`] =
        `${security}.plain.PlainLoginModule required user_${KAFKA_USER}="${KAFKA_PASSWORD}";`;
    }
    // Sessions so short that a client has to renew them while it works.
    properties['listener.name.sasl_plaintext.plain.connections.max.reauth.ms'] = '3000';
    return properties;
  }

  #java(mainClass: string, args: readonly string[]): ChildProcess {
    const jars = join(requireService('kafka'), '*');
    return this.#spawn('java', [...JAVA_OPTIONS, '-cp', jars, mainClass, ...args]);
  }

  #spawn(command: string, args: readonly string[]): ChildProcess {
    const log = openSync(join(this.dir, 'broker.log'), 'a');
    try {
      return spawn(command, args, { stdio: ['ignore', log, log], cwd: this.dir });
    } finally {
      closeSync(log);
    }
  }

  async #run(child: ChildProcess, what: string): Promise<void> {
    const timer = setTimeout(() => child.kill('SIGKILL'), HANG_MS);
    const [status] = (await once(child, 'exit')) as [number | null];
    clearTimeout(timer);
    if (status !== 0) throw new Error(`${what}: ${readFileSync(join(this.dir, 'broker.log'), 'utf8')}`);
  }
}

/** True when an ApiVersions request (v0, correlation id 0, no client id) is answered. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(Buffer.from('0000000a0012000000000000ffff', 'hex')));
    const end = (answered: boolean): void => {
      socket.destroy();
      resolve(answered);
    };
    socket.setTimeout(2000, () => end(false));
    socket.on('data', () => end(true));
    socket.on('error', () => end(false));
    socket.on('end', () => end(false));
  });
}
