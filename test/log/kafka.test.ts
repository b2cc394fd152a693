/** The Kafka adapter against a real broker, through both transports. */
import { afterAll, beforeAll, describe } from 'vitest';
import { openLog } from '../../lib/registry.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { describeLogContract } from '../support/log-contract.ts';
import { missing } from '../support/services.ts';

describe.skipIf(missing('kafka'))('kafka:', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start();
  });
  afterAll(() => broker.close());

  describeLogContract('kafka: over kafkajs', () => openLog(`kafka://${broker.plain}`));
  describeLogContract('kafka: over @platformatic/kafka', () => openLog(`kafka://${broker.plain}?client=platformatic`));
});
