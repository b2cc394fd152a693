/** A MetaEngine whose calls a FaultPlan lets pass or fails, before or after they took effect. */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { FaultPlan } from './fault.ts';

/** Operations by the port's names: `commit`, `read`, `readNumbers`, `follow`, `scan`, `count`, `flush`; the rest passes through. */
export function faultyEngine(engine: MetaEngine, plan: FaultPlan): MetaEngine {
  return {
    url: engine.url,
    sessionId: engine.sessionId,
    epoch: engine.epoch,
    lost: engine.lost,
    read: (keys) => plan.run('read', () => engine.read(keys)),
    readNumbers: (keys) => plan.run('readNumbers', () => engine.readNumbers(keys)),
    follow: (key, link) => plan.run('follow', () => engine.follow(key, link)),
    scan: (bucket, cursor, limit) => plan.run('scan', () => engine.scan(bucket, cursor, limit)),
    count: (bucket) => plan.run('count', () => engine.count(bucket)),
    buckets: (prefix) => engine.buckets(prefix),
    numbers: (bucket) => engine.numbers(bucket),
    commit: (transaction) => plan.run('commit', () => engine.commit(transaction)),
    instant: (tag) => engine.instant(tag),
    clearInstants: (tag) => engine.clearInstants(tag),
    subscribe: (shards, handlers) => engine.subscribe(shards, handlers),
    sessions: () => engine.sessions(),
    endSession: (id) => engine.endSession(id),
    flush: () => plan.run('flush', () => engine.flush()),
    close: () => engine.close(),
  };
}
