/** Modbus devices on a free loopback port: one that behaves (the server of jsmodbus), and one that answers what a test tells it to. */
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { ModbusTCPServer } from 'jsmodbus';
import { onTestFinished } from 'vitest';

export interface Tables {
  readonly coils: Buffer;
  readonly discrete: Buffer;
  readonly input: Buffer;
  readonly holding: Buffer;
}

/** Serves the tables as they are at each request. */
export async function goodDevice(): Promise<Tables & { readonly url: string; readonly requests: () => number }> {
  const tables = {
    coils: Buffer.alloc(512),
    discrete: Buffer.alloc(512),
    input: Buffer.alloc(4096),
    holding: Buffer.alloc(4096),
  };
  const { server, port } = await listening(() => undefined);
  let requests = 0;
  const device = new ModbusTCPServer(server, tables);
  for (const event of ['preReadCoils', 'preReadDiscreteInputs', 'preReadHoldingRegisters', 'preReadInputRegisters']) {
    device.on(event as 'preReadCoils', () => (requests += 1)); // one of the events that are declared, each by itself
  }
  return { ...tables, url: `modbus://127.0.0.1:${port}`, requests: () => requests };
}

export interface Asked {
  readonly transaction: number;
  readonly unit: number;
  readonly function: number;
  readonly address: number;
  readonly count: number;
  readonly socket: Socket;
}

export interface ScriptedDevice {
  readonly url: string;
  readonly asked: Asked[];
  /** Ends the connections; new ones are taken. */
  drop(): void;
}

/** `answer` gives the bytes to send, or null for silence. */
export async function scriptedDevice(answer: (asked: Asked, index: number) => Buffer | null): Promise<ScriptedDevice> {
  const asked: Asked[] = [];
  const sockets = new Set<Socket>();
  const { port } = await listening((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    // Requests have 12 bytes, and the source sends one at a time.
    socket.on('data', (bytes: Buffer) => {
      const request = {
        transaction: bytes.readUInt16BE(0),
        unit: bytes.readUInt8(6),
        function: bytes.readUInt8(7),
        address: bytes.readUInt16BE(8),
        count: bytes.readUInt16BE(10),
        socket,
      };
      asked.push(request);
      const reply = answer(request, asked.length - 1);
      if (reply !== null) socket.write(reply);
    });
  });
  const drop = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  onTestFinished(drop);
  return { url: `modbus://127.0.0.1:${port}`, asked, drop };
}

/** A frame; by default, to what was asked. */
export function frame(
  asked: Pick<Asked, 'transaction' | 'unit'>,
  pdu: Buffer | readonly number[],
  more: { readonly protocol?: number; readonly length?: number } = {},
): Buffer {
  const bytes = Buffer.alloc(7 + pdu.length);
  bytes.writeUInt16BE(asked.transaction, 0);
  bytes.writeUInt16BE(more.protocol ?? 0, 2);
  bytes.writeUInt16BE(more.length ?? pdu.length + 1, 4);
  bytes.writeUInt8(asked.unit, 6);
  bytes.set(pdu, 7);
  return bytes;
}

/** Registers, each with its own address as its value. */
export function addresses(asked: Asked): Buffer {
  const pdu = Buffer.alloc(2 + 2 * asked.count);
  pdu.writeUInt8(asked.function, 0);
  pdu.writeUInt8(2 * asked.count, 1);
  for (let index = 0; index < asked.count; index += 1) pdu.writeUInt16BE(asked.address + index, 2 + 2 * index);
  return frame(asked, pdu);
}

export function exception(asked: Asked, code: number): Buffer {
  return frame(asked, [asked.function + 0x80, code]);
}

async function listening(onConnection: (socket: Socket) => void): Promise<{ server: Server; port: number }> {
  const server = createServer(onConnection);
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    // The source may go while an answer to it is on its way, which comes back as a reset.
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { server, port: (server.address() as AddressInfo).port }; // listening on TCP
}
