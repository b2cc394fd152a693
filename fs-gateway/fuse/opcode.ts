/** The shape of one row of the opcode table, and the pieces that rows share. */
import { PosixError } from '../vfs/operations.ts';
import type { Caller, Entry, Operations, Result } from '../vfs/operations.ts';
import type { ReplyWriter } from './reply.ts';
import type { RequestReader } from './request.ts';

/**
 * Methods, not function properties: their parameters are bivariant, which lets rows of different argument types share one table.
 * It is sound because the loop hands a row only what the same row decoded or returned.
 */
export interface Opcode<A = unknown, R = unknown> {
  readonly name: string;
  /** FORGET and its kind: the kernel expects no answer. */
  readonly silent?: true;
  /** Nobody waits for the answer or the effect, and what `decode` returns does not refer to the request's bytes. */
  unhurried?(ops: Operations, ino: bigint, args: A): boolean;
  decode(request: RequestReader): A;
  call(ops: Operations, caller: Caller, ino: bigint, args: A): Result<R>;
  encode?(reply: ReplyWriter, result: R, args: A): void;
  /** What it moved from the file to the program, or back. */
  readBytes?(result: R, args: A): number;
  writtenBytes?(result: R): number;
  /** What it opened is read and written by the kernel alone. */
  passesThrough?(result: R): boolean;
  undo?(ops: Operations, caller: Caller, ino: bigint, result: R, args: A): Result<void>;
}

export const row = <A, R>(opcode: Opcode<A, R>): Opcode => opcode;
export const nothing = (): undefined => undefined;
export const firstName = (request: RequestReader): string => request.name(0);

/** Opcodes that this server does not serve: the kernel asks once for those it stops asking for at ENOSYS. */
export const refused = (name: string, errno: number): Opcode =>
  row<undefined, undefined>({
    name,
    decode: nothing,
    call: () => {
      throw new PosixError(errno, name);
    },
  });

export const entryReply = {
  encode: (reply: ReplyWriter, result: Entry) => reply.entry(result),
  undo: (ops: Operations, _caller: Caller, _ino: bigint, result: Entry) => ops.forget(result.attributes.ino, 1n),
};
