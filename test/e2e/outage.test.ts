import { expect, onTestFinished, describe, test } from 'vitest';
import { KafkaBroker } from '../support/kafka.ts';
import { Mosquitto } from '../support/mosquitto.ts';
import { runOutage } from '../support/outage.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { LONG_MS } from '../support/hang.ts';

describe.skipIf(missing('kafka', 'mosquitto'))('an agent between file, HTTP, MQTT and Kafka', () => {
  test(
    'brings each acknowledged reading into Kafka once and in order, whatever of them is stopped or killed',
    { timeout: LONG_MS },
    async () => {
      const [kafka, mosquitto] = await Promise.all([KafkaBroker.start(), Mosquitto.start()]);
      onTestFinished(async () => {
        await Promise.all([kafka.close(), mosquitto.stop()]);
      });
      let seed = 20260131;
      const random = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647;
      const steps: string[] = [];
      const result = await runOutage({
        ...{ readings: 2000, kills: 5, terminations: 1, brokerDownMs: 1500 },
        ...{ kafka, mosquitto, dir: tempDir(), random },
        say: (text) => void steps.push(text),
        atEnd: onTestFinished,
      });
      expect({ steps, flaws: result.flaws }).toEqual({ steps, flaws: [] });
      expect(result.inKafka).toBe(result.acknowledged);
      expect(result.acknowledged).toBeGreaterThanOrEqual(6000);
    },
  );
});
