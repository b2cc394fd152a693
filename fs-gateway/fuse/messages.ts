/** What supervisor and worker say to each other over the child process's IPC channel (JSON), and how a worker is started. */
import type { ErrorCode } from '../../lib/errors.ts';
import type { Negotiated } from './handshake.ts';
import type { HeldFile } from './held-files.ts';
import type { Notification } from './notifier.ts';

/** The worker inherits /dev/fuse as this descriptor (stdin, stdout, stderr, IPC, device). */
export const DEVICE_FD = 4;

export interface Assignment {
  readonly mountpoint: string;
  /** Random, one per mount: with a request's number it identifies an operation over worker restarts. */
  readonly session: string;
  /** 0 for the first worker of a mount; later ones ask the kernel to send unanswered requests again. */
  readonly generation: number;
  readonly negotiated: Negotiated;
  /** Somebody else has the device too (keeper.ts): without its supervisor a worker ends as if it was killed, and another takes over. */
  readonly kept: boolean;
  readonly accessLogPath?: string;
  /** What the workers before this one gave the supervisor to hold, and where that can be opened. Absent: an older one holds nothing. */
  readonly held?: readonly (readonly [id: number, path: string])[];
  /** The caller's own options for its worker module, as JSON. */
  readonly options: unknown;
}

/** What an older worker, as after a rollback under a running supervisor, may not know. */
export type WorkerAnswer = 'ping';

export type ToWorker =
  | { readonly type: 'assign'; readonly assignment: Assignment }
  /** Make everything durable while serving goes on. */
  | { readonly type: 'flush'; readonly id: number }
  /** Stop reading, finish what is in flight, flush and end: a successor or nobody takes over. */
  | { readonly type: 'stop'; readonly id: number }
  | { readonly type: 'stats' | 'usage'; readonly id: number }
  /** Answered at once by a worker that does not stand still, and has said that it answers. */
  | { readonly type: 'ping'; readonly id: number }
  /** So many of its notifications are in the kernel: the batch that it sent. */
  | { readonly type: 'notified'; readonly count: number }
  | { readonly type: 'reopen-log' };

export type FromWorker =
  /** `answers`: what it knows besides what every version does. Absent: none of it, as it is of a version that did not say so. */
  | { readonly type: 'serving'; readonly answers?: readonly WorkerAnswer[] }
  | { readonly type: 'failed'; readonly message: string }
  | { readonly type: 'unmounted' }
  | { readonly type: 'notify'; readonly batch: readonly Notification[] }
  /** This descriptor is of a file that the next worker could not open, until it is let go. An older supervisor knows neither. */
  | { readonly type: 'hold'; readonly held: number; readonly fd: number; readonly file: HeldFile }
  | { readonly type: 'let-go'; readonly held: number }
  | { readonly type: 'answer'; readonly id: number; readonly value?: unknown; readonly error?: string };

/** What a supervisor in the background says to the command that started it. */
export type FromSupervisor =
  | { readonly type: 'mounted'; readonly mountpoint: string }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };
