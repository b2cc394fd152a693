import { z } from 'zod';
import { PenstockError } from '../../errors.ts';
import type { SessionInfo, SessionOptions } from '../engine.ts';
import { FIRST_SECOND } from '../session-id.ts';
import { refusal } from './commit-codec.ts';
import type { RedisConnection } from './connection.ts';
import { KEEPING_KEY, LAST_SESSION_KEY, SESSIONS_KEY, SESSION_PREFIX, sessionKey } from './keys.ts';
import { Script } from './script.ts';
import {
  END_SESSION_SCRIPT,
  LIST_SESSIONS_SCRIPT,
  OPEN_SESSION_SCRIPT,
  RENEW_SESSION_SCRIPT,
} from './small-scripts.ts';

/** Records of sessions that died are kept so long for those who clear up after them. */
const DEAD_KEPT_MS = 7 * 24 * 3600e3;

const openScript = new Script(OPEN_SESSION_SCRIPT);
const renewScript = new Script(RENEW_SESSION_SCRIPT);
const listScript = new Script(LIST_SESSIONS_SCRIPT);
const endScript = new Script(END_SESSION_SCRIPT);

const infoSchema = z.object({
  kind: z.string(),
  host: z.string(),
  pid: z.number(),
  detail: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  startedMs: z.number(),
});

/** The records of sessions on Redis; the scripts are in small-scripts.ts. */
export class RedisSessions {
  readonly #connection: RedisConnection;

  constructor(connection: RedisConnection) {
    this.#connection = connection;
  }

  async open(
    session: SessionOptions & { readonly host: string; readonly pid: number; readonly leaseMs: number },
  ): Promise<{ id: number; epoch: string }> {
    const { kind, detail = {}, host, pid, leaseMs } = session;
    // `instants`: its commits keep what they overwrite (instants.ts).
    const info = JSON.stringify({ kind, detail, host, pid, startedMs: Date.now(), instants: true });
    const answer = await openScript.run(this.#connection, [
      ...['3', SESSIONS_KEY, LAST_SESSION_KEY, KEEPING_KEY],
      ...[info, String(Math.ceil(leaseMs)), SESSION_PREFIX, String(DEAD_KEPT_MS), String(FIRST_SECOND)],
    ]);
    const [id, epoch] = Array.isArray(answer) ? (answer as unknown[]) : [];
    return { id: Number(id), epoch: String(epoch) };
  }

  /** Throws `fenced` when the session or the epoch is gone. */
  async renew(id: number, epoch: string, leaseMs: number): Promise<void> {
    const answer = await renewScript.run(this.#connection, ['1', sessionKey(id), epoch, String(Math.ceil(leaseMs))]);
    const refused = refusal(String(answer));
    if (refused !== undefined) throw new PenstockError('fenced', refused);
  }

  async all(): Promise<SessionInfo[]> {
    const answer = await listScript.run(this.#connection, ['1', SESSIONS_KEY, SESSION_PREFIX]);
    const flat: unknown[] = Array.isArray(answer) ? answer : [];
    const sessions: SessionInfo[] = [];
    for (let i = 0; i + 3 < flat.length; i += 4) {
      const info = infoSchema.parse(JSON.parse(String(flat[i + 1])));
      sessions.push({ id: Number(flat[i]), ...info, renewedMs: Number(flat[i + 2]), live: Number(flat[i + 3]) === 1 });
    }
    return sessions.sort((a, b) => a.id - b.id);
  }

  async end(id: number): Promise<void> {
    await endScript.run(this.#connection, ['2', SESSIONS_KEY, sessionKey(id), String(id)]);
  }
}
