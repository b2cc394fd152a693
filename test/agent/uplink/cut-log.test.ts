/**
 * Logs that forget what they acknowledged, as an unclean election makes them: what is gone is told of, and nothing that the agent still has is lost,
 * doubled or held up.
 */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { Kafka, logLevel, type Admin } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../../../lib/clock.ts';
import { PenstockError } from '../../../lib/errors.ts';
import { openFileLogAt } from '../../../lib/log/file/file-log.ts';
import type { Log } from '../../../lib/log/log.ts';
import type { AgentStatus } from '../../../agent/status.ts';
import { AgentProcess, numberedIn } from '../../support/agent-process.ts';
import { FaultPlan } from '../../support/fault.ts';
import { HANG_MS } from '../../support/hang.ts';
import { KafkaBroker } from '../../support/kafka.ts';
import { faultyLog } from '../../support/log-faulty.ts';
import { freePorts } from '../../support/ports.ts';
import { missing } from '../../support/services.ts';
import { tempDir } from '../../support/temp.ts';
import { delivered, flaws } from './delivered.ts';
import { GeneratedSpool } from './generated-spool.ts';
import { startUplink } from './start-uplink.ts';

test('a batch whose answer was lost behind a cut is found where the new leader put it, and is there once', async () => {
  const directory = tempDir();
  const open = async (name: string): Promise<Log> => {
    const log = await openFileLogAt(join(directory, name), { segmentBytes: 1 << 20, clock: systemClock });
    await log.ensureTopic('t', { partitions: 1, retentionMs: 3_600_000 });
    onTestFinished(() => log.close());
    return log;
  };
  const [first, second] = [await open('first'), await open('second')];
  let leader = { log: first, epoch: 3 };
  // Of the new leader: the batch is stored, and who sent it is forgotten before it is answered.
  const forgotten = (): Error => new PenstockError('unknown-producer', 'expired');
  const plan = new FaultPlan({ operation: 'append', call: 0, moment: 'after', error: forgotten });
  const log: Log = {
    ...faultyLog(first, new FaultPlan()),
    producer: async () => {
      const { log: of } = leader;
      const producer = await of.producer();
      return {
        ...producer,
        append: async (topic, partition, batch) => {
          if (leader.log !== of) throw new PenstockError('out-of-order', 'the sequence behind a hole');
          const append = (): ReturnType<typeof producer.append> => producer.append(topic, partition, batch);
          const result = leader.log === second ? await plan.run('append', append) : await append();
          return { ...result, leaderEpoch: leader.epoch };
        },
      };
    },
    offsets: async (topic, partition) => ({
      ...(await leader.log.offsets(topic, partition)),
      leaderEpoch: leader.epoch,
    }),
    fetch: (request) => leader.log.fetch(request),
    epochEnd: async (topic, partition, epoch) =>
      epoch < leader.epoch ? 0n : (await leader.log.offsets(topic, partition)).end,
  };
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 100);
  const said: string[] = [];
  const uplink = await startUplink(log, spool, directory, { say: (line) => said.push(line) });
  onTestFinished(() => uplink.close());
  expect(await uplink.drain(HANG_MS)).toBe(true);
  leader = { log: second, epoch: 4 };
  for (let round = 0; round < 4; round += 1) {
    spool.grow(10);
    expect(await uplink.drain(HANG_MS)).toBe(true);
  }
  expect(plan.fired).toBe(1);
  const found = (await delivered(second, 't')).map((one) => ({ ...one, seq: one.seq - 100 }));
  expect(flaws(found, 40)).toBe('');
  expect(said).toEqual([expect.stringMatching(/^t\/0: the log was cut at offset 0 and had got to 100: 100 records /)]);
  expect(uplink.status().cuts).toEqual(said);
});

describe.skipIf(missing('kafka'))('on a cluster whose leader is lost, and an out-of-date replica leads', () => {
  let brokers: readonly [first: KafkaBroker, leader: KafkaBroker, follower: KafkaBroker];
  beforeAll(async () => {
    const first = await KafkaBroker.start();
    const [leader, follower] = [
      KafkaBroker.start({ joins: { broker: first, nodeId: 2 } }),
      KafkaBroker.start({ joins: { broker: first, nodeId: 3 } }),
    ];
    brokers = [first, await leader, await follower];
  });
  afterAll(async () => {
    await Promise.all(brokers.map((broker) => broker.close()));
  });

  /** Brokers 2, which leads, and 3 have it. */
  async function makeTopic(admin: Admin, topic: string): Promise<void> {
    const configEntries = [
      { name: 'unclean.leader.election.enable', value: 'true' },
      { name: 'min.insync.replicas', value: '1' },
    ];
    const replicaAssignment = [{ partition: 0, replicas: [2, 3] }];
    await admin.createTopics({ topics: [{ topic, replicaAssignment, configEntries }] });
    const isComplete = async (): Promise<boolean> => {
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
      return topics[0]?.partitions[0]?.leader === 2 && topics[0].partitions[0].isr.length === 2;
    };
    await expect.poll(() => isComplete().catch(() => false), { timeout: HANG_MS, interval: 50 }).toBe(true);
  }

  test.each([
    ['t', 'runs', false],
    ['u', 'is killed -9 meanwhile', true],
  ])(
    '%s: what the agent still has is there once and in order, and what is gone is told of, when it %s',
    async (topic, _, isKilled) => {
      const [first, leader, follower] = brokers;
      const admin = new Kafka({ brokers: [first.plain], logLevel: logLevel.NOTHING }).admin();
      await makeTopic(admin, topic);
      await admin.disconnect();

      const dir = tempDir();
      const [port = 0] = await freePorts(1);
      const url = `kafka://${first.plain}`;
      const agent = new AgentProcess(
        dir,
        `agent: { id: a, dataDir: ./data, listen: '127.0.0.1:${port}' }
log: ${url}
uplink: { order: oldestFirst }
sources: [{ type: file, path: ./in.ndjson, to: ${topic}, sensor: id, poll: 10ms }]
`,
      );
      agent.start();
      let count = 0;
      const write = (lines: number): void => {
        for (let line = 0; line < lines; line += 1) {
          count += 1;
          appendFileSync(join(dir, 'in.ndjson'), `{"n":${count},"id":"s"}\n`);
        }
      };
      const status = async (): Promise<AgentStatus> => {
        const answer = await fetch(`http://127.0.0.1:${port}/status`);
        return (await answer.json()) as AgentStatus; // our own agent's
      };
      const expectAllDelivered = (): Promise<void> =>
        expect
          .poll(async () => (await status().catch(() => undefined))?.delivered, { timeout: 3 * HANG_MS, interval: 50 })
          .toBe(count);
      write(200);
      await expectAllDelivered();
      // What comes now, the leader has alone.
      await follower.kill();
      write(200);
      await expectAllDelivered();
      await leader.kill();
      write(200);
      if (isKilled) {
        await expect.poll(async () => (await status()).uplink.inFlight, { timeout: HANG_MS }).toBeGreaterThan(0);
        await agent.end('SIGKILL');
        agent.start();
      }
      await follower.start();
      await expectAllDelivered();
      write(100);
      await expectAllDelivered();
      const expected = Array.from({ length: count }, (__, index) => index + 1).filter((n) => n <= 200 || n > 400);
      expect((await numberedIn(url, topic)).map(({ n }) => n)).toEqual(expected);
      const { uplink, uplinkProblem } = await status();
      expect(uplink.cuts).toHaveLength(1);
      expect(uplink.cuts[0]).toContain(`${topic}/0: the log was cut at offset 200 and had got to 400: 200 records `);
      expect(uplinkProblem).toBeNull();
      expect(await agent.end('SIGTERM')).toBe(0);
      await leader.start();
    },
  );
});
