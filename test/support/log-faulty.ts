import type { Log } from '../../lib/log/log.ts';
import type { FaultPlan } from './fault.ts';

/** A Log whose calls fail as the plan says: `ensureTopic`, `producer`, `append`, `offsets`, `fetch`; the rest passes through. */
export function faultyLog(log: Log, plan: FaultPlan): Log {
  const epochEnd = log.epochEnd?.bind(log);
  return {
    url: log.url,
    ensureTopic: (name, options) => plan.run('ensureTopic', () => log.ensureTopic(name, options)),
    topic: (name) => log.topic(name),
    topics: () => log.topics(),
    deleteTopic: (name) => log.deleteTopic(name),
    producer: () =>
      plan.run('producer', async () => {
        const producer = await log.producer();
        return {
          producerId: producer.producerId,
          producerEpoch: producer.producerEpoch,
          append: (topic, partition, batch) => plan.run('append', () => producer.append(topic, partition, batch)),
        };
      }),
    offsets: (topic, partition, isolation) => plan.run('offsets', () => log.offsets(topic, partition, isolation)),
    fetch: (request) => plan.run('fetch', () => log.fetch(request)),
    ...(epochEnd && { epochEnd }),
    commitHint: (group, topic, nextOffsets) => log.commitHint(group, topic, nextOffsets),
    close: () => log.close(),
  };
}
