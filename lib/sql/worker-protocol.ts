/** What goes over the channel between SqlWorker and its child process, one answer for each request in any order. */
import type { ErrorCode } from '../errors.ts';
import type { DuckDbOptions, Row, Selected, SelectLimits } from './duckdb.ts';

export type WorkerRequest = { readonly id: number } & (
  | { readonly kind: 'open'; readonly options: DuckDbOptions }
  /** A statement whose answer is how many rows it changed or copied. */
  | { readonly kind: 'run'; readonly sql: string }
  | { readonly kind: 'query'; readonly sql: string }
  | { readonly kind: 'lock-down'; readonly paths: readonly string[] }
  | { readonly kind: 'select'; readonly sql: string; readonly limits: SelectLimits }
);

export interface WorkerReply {
  readonly id: number;
  /** CPU time of the child so far, microseconds. */
  readonly cpuMicros: number;
  /** Resident memory of the worker now. */
  readonly rssBytes: number;
  readonly rowsChanged?: number;
  readonly rows?: readonly Row[];
  readonly selected?: Selected;
  readonly error?: { readonly code: ErrorCode; readonly message: string };
}
