/** A small minitransaction whose answer may get lost: the same operation is asked again, and the engine gives it its first result. */
import { randomUUID } from 'node:crypto';
import { isCode } from '../lib/errors.ts';
import type { CommitResult, MetaEngine, Minitransaction } from '../lib/meta/engine.ts';

const SENDS_MAX = 3;

export async function commitSurely(
  engine: MetaEngine,
  transaction: Omit<Minitransaction, 'operation'>,
): Promise<CommitResult> {
  const operation = randomUUID();
  for (let attempt = 1; ; attempt++) {
    try {
      return await engine.commit({ ...transaction, operation });
    } catch (error) {
      if (attempt === SENDS_MAX || !isCode(error, 'timeout', 'unavailable')) throw error;
    }
  }
}
