/** A schema registry of the test: the part of Confluent's API that a reader asks, which can be told to fail. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

export interface Registered {
  readonly schema: string;
  readonly schemaType?: 'AVRO' | 'PROTOBUF';
  readonly references?: readonly { readonly name: string; readonly subject: string; readonly version: number }[];
}

export class TestRegistry {
  readonly byId = new Map<number, Registered>();
  /** By `subject/version`. */
  readonly bySubject = new Map<string, Registered>();
  /** Answers this instead, while it is set. */
  failWith: { readonly status: number; readonly body: string } | undefined;
  readonly requests: string[] = [];
  url = '';

  static async start(): Promise<TestRegistry> {
    const registry = new TestRegistry();
    const server = createServer((request, response) => registry.#answer(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    registry.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`; // it listens on a port
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    return registry;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? '';
    this.requests.push(path);
    const { status, body } = this.failWith ?? this.#find(path);
    response.writeHead(status).end(body);
  }

  #find(path: string): { readonly status: number; readonly body: string } {
    const id = /^\/schemas\/ids\/(\d+)$/.exec(path)?.[1];
    const version = /^\/subjects\/([^/]+)\/versions\/(\d+)$/.exec(path);
    const found =
      id === undefined
        ? this.bySubject.get(`${decodeURIComponent(version?.[1] ?? '')}/${version?.[2] ?? ''}`)
        : this.byId.get(Number(id));
    return found === undefined
      ? { status: 404, body: JSON.stringify({ error_code: 40403, message: 'Schema not found' }) }
      : { status: 200, body: JSON.stringify(found) };
  }
}

/** Confluent's wire format. */
export function framed(id: number, payload: Uint8Array): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(id, 1);
  return Buffer.concat([prefix, payload]);
}
