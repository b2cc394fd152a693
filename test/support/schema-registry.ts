/** A real schema registry (Apicurio, with its records in memory) on a free port of the loopback interface. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { freePorts } from './kafka.ts';
import { requireService } from './services.ts';
import { tempDir } from './temp.ts';

/** A cold JVM on a machine that runs other tests. */
const START_DEADLINE_MS = 55_000;

export class SchemaRegistryServer {
  /** The base of Confluent's API. */
  readonly url: string;

  private constructor(port: number) {
    this.url = `http://127.0.0.1:${port}/apis/ccompat/v7`;
  }

  static async start(): Promise<SchemaRegistryServer> {
    const jar = join(requireService('apicurio'), 'apicurio-registry-app-3.0.9-runner.jar');
    const [port = 0] = await freePorts(1);
    const log = join(tempDir('registry'), 'registry.log');
    const output = openSync(log, 'w');
    const options = ['-Xmx400m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'];
    const settings = ['-Dquarkus.http.host=127.0.0.1', `-Dquarkus.http.port=${port}`];
    const child = spawn('java', [...options, ...settings, '-jar', jar], { stdio: ['ignore', output, output] });
    closeSync(output);
    onTestFinished(async () => {
      if (child.exitCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    });
    const registry = new SchemaRegistryServer(port);
    const deadline = performance.now() + START_DEADLINE_MS;
    while (!(await registry.#answers())) {
      if (child.exitCode !== null || performance.now() > deadline) {
        throw new Error(`the schema registry did not start:\n${readFileSync(log, 'utf8').slice(-4000)}`);
      }
      await delay(100);
    }
    return registry;
  }

  async #answers(): Promise<boolean> {
    try {
      return (await fetch(`${this.url}/subjects`, { signal: AbortSignal.timeout(2000) })).ok;
    } catch {
      return false;
    }
  }

  /** The id that the registry gives it. */
  async register(
    subject: string,
    schema: {
      readonly schema: string;
      readonly schemaType: 'AVRO' | 'PROTOBUF';
      readonly references?: readonly { readonly name: string; readonly subject: string; readonly version: number }[];
    },
  ): Promise<number> {
    const response = await fetch(`${this.url}/subjects/${encodeURIComponent(subject)}/versions`, {
      method: 'POST',
      headers: { 'content-type': 'application/vnd.schemaregistry.v1+json' },
      body: JSON.stringify(schema),
    });
    const answer = (await response.json()) as { readonly id?: number }; // its API
    if (answer.id === undefined) throw new Error(`${subject}: ${JSON.stringify(answer)}`);
    return answer.id;
  }
}
