/** Calls a CSI service on a Unix socket. */
import { credentials, makeGenericClientConstructor, Metadata } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { csiService } from './protocol.ts';
import { CsiError } from './status.ts';

const CALL_MS = 60_000;

export type CsiAnswer = Readonly<Record<string, unknown>>;
export type CsiCall = (method: string, request: object) => Promise<CsiAnswer>;

/** Each call connects anew, so that a server that was replaced is found. Throws `CsiError` with the code of the answer. */
export function csiClient(service: 'Identity' | 'Controller' | 'Node', socket: string): CsiCall {
  const definition = csiService(service);
  const Client = makeGenericClientConstructor(definition, service);
  return async (method, request) => {
    const entry = definition[method];
    if (entry === undefined) throw new Error(`${service} has no method ${method}`);
    const client = new Client(`unix:${socket}`, credentials.createInsecure());
    try {
      return await new Promise<CsiAnswer>((done, reject) => {
        client.makeUnaryRequest(
          entry.path,
          entry.requestSerialize,
          entry.responseDeserialize,
          request,
          new Metadata(),
          { deadline: Date.now() + CALL_MS },
          (error: ServiceError | null, answer: unknown) => {
            if (error === null)
              done(answer as CsiAnswer); // what proto-loader made of the message
            else reject(new CsiError(error.code, error.details));
          },
        );
      });
    } finally {
      client.close();
    }
  };
}
