/** A real schema registry (Apicurio, with its records in memory) on a free port of the loopback interface. */
import { join } from 'node:path';
import { requireService } from './services.ts';
import { tempDir } from './temp.ts';
import { startJavaServer } from './java-server.ts';
import { freePorts } from './ports.ts';

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
    const registry = new SchemaRegistryServer(port);
    await startJavaServer({
      name: 'the schema registry',
      args: ['-Xmx400m', '-Dquarkus.http.host=127.0.0.1', `-Dquarkus.http.port=${port}`, '-jar', jar],
      log,
      answers: () => registry.#answers(),
    });
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
