/**
 * Session rows: who uses the file, and whether it still does.
 *
 * Invariants: a lease is measured on the machine's monotonic clock (`process.hrtime`: one clock for all processes since boot), so
 * that a jump of the wall clock, or a laptop that slept, ends nobody's session. A row renewed in the future of that clock is of
 * an earlier boot, and dead.
 * Limits: rows of sessions that died are kept for DEAD_KEPT_MS, so that their locks and registrations can be cleared by
 * `endSession`, and deleted when a session is opened after that.
 */
import { hostname } from 'node:os';
import type { DatabaseSync, SQLOutputValue, StatementSync } from 'node:sqlite';
import type { SessionInfo, SessionOptions } from '../engine.ts';
import { leastSessionId } from '../session-id.ts';

const DEAD_KEPT_MS = 7 * 24 * 3600e3;

/** Milliseconds since boot, the same in every process of this machine. */
function upMs(): number {
  return Number(process.hrtime.bigint() / 1_000_000n);
}

export class SessionRows {
  readonly #insert: StatementSync;
  readonly #all: StatementSync;
  readonly #get: StatementSync;
  readonly #renew: StatementSync;
  readonly #delete: StatementSync;
  readonly #deleteOperations: StatementSync;
  readonly #deleteDead: StatementSync;
  readonly #epoch: StatementSync;

  constructor(database: DatabaseSync) {
    this.#insert = database.prepare(
      `INSERT INTO sessions (id, kind, host, pid, detail, lease_ms, started_ms, renewed_ms, renewed_up_ms)
       SELECT max(?, 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0)), ?, ?, ?, ?, ?, ?, ?, ?
       RETURNING id`,
    );
    this.#all = database.prepare('SELECT * FROM sessions ORDER BY id');
    this.#get = database.prepare('SELECT lease_ms, renewed_up_ms FROM sessions WHERE id = ?');
    this.#renew = database.prepare('UPDATE sessions SET renewed_ms = ?, renewed_up_ms = ? WHERE id = ?');
    this.#delete = database.prepare('DELETE FROM sessions WHERE id = ?');
    this.#deleteOperations = database.prepare('DELETE FROM operations WHERE session = ?');
    this.#deleteDead = database.prepare('DELETE FROM sessions WHERE renewed_ms < ? AND renewed_up_ms + lease_ms < ?');
    this.#epoch = database.prepare('SELECT epoch FROM engine');
  }

  open(options: SessionOptions, leaseMs: number): number {
    const nowMs = Date.now();
    this.#deleteDead.run(nowMs - DEAD_KEPT_MS, upMs());
    const row = this.#insert.get(
      leastSessionId(nowMs),
      options.kind,
      hostname(),
      process.pid,
      JSON.stringify(options.detail ?? {}),
      Math.ceil(leaseMs),
      nowMs,
      nowMs,
      upMs(),
    );
    return Number(row?.['id']);
  }

  all(): SessionInfo[] {
    return this.#all.all().map((row) => ({
      id: Number(row['id']),
      kind: String(row['kind']),
      host: String(row['host']),
      pid: Number(row['pid']),
      detail: JSON.parse(String(row['detail'])) as SessionInfo['detail'], // written by `open` from that type
      startedMs: Number(row['started_ms']),
      renewedMs: Number(row['renewed_ms']),
      live: isLive(row),
    }));
  }

  /** Why a commit of this session is refused, or null when it may go on. */
  refusal(id: number, epoch: string): string | null {
    if (this.#epoch.get()?.['epoch'] !== epoch) return 'the metadata database was replaced by another';
    const row = this.#get.get(id);
    if (row === undefined) return `session ${id} was ended`;
    return isLive(row) ? null : `the lease of session ${id} ran out`;
  }

  renew(id: number): void {
    this.#renew.run(Date.now(), upMs(), id);
  }

  end(id: number): void {
    this.#delete.run(id);
    this.#deleteOperations.run(id);
  }
}

function isLive(row: Readonly<Record<string, SQLOutputValue>>): boolean {
  const renewedMs = Number(row['renewed_up_ms']);
  const nowMs = upMs();
  return renewedMs <= nowMs && nowMs < renewedMs + Number(row['lease_ms']);
}
