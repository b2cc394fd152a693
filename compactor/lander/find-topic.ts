/** A topic by its name, looked for so often that a broker which has just started, and does not know its topics yet, is not believed that it is gone. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log, TopicInfo } from '../../lib/log/log.ts';

const LOOKS = 3;
const LOOK_AGAIN_MS = 500;

/** null: it was deleted. */
export async function findTopic(log: Log, name: string): Promise<TopicInfo | null> {
  for (let look = 1; ; look++) {
    const topic = await log.topic(name);
    if (topic !== null || look === LOOKS) return topic;
    await sleep(LOOK_AGAIN_MS);
  }
}
