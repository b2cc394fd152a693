/**
 * The outage test at full size: readings of a file, of HTTP clients (with Idempotency-Key) and of MQTT publishers (QoS 2, a third QoS 1) go
 * through an agent into a real Kafka broker, while the agent is killed -9 and ended by SIGTERM at random moments, the broker is stopped
 * for a while and killed -9 once. Every reading that was acknowledged must be in Kafka exactly once, in order per sensor.
 *
 *   node bench/outage.ts [--readings 100000] [--kills 10] [--terms 2] [--down 30000] [--seed 1]
 *
 * `--readings` of each source, at least; `--down`: milliseconds without the broker. Ends with status 1 when anything is missing, double or out
 * of order. Kafka and Mosquitto are started for it (node bin/install.mjs --services installs them).
 */
import { rmSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { KafkaBroker } from '../test/support/kafka.ts';
import { Mosquitto } from '../test/support/mosquitto.ts';
import { runOutage } from '../test/support/outage.ts';
import { makeTempDir } from '../test/support/temp.ts';

const { values } = parseArgs({
  options: {
    readings: { type: 'string', default: '100000' },
    kills: { type: 'string', default: '10' },
    terms: { type: 'string', default: '2' },
    down: { type: 'string', default: '30000' },
    seed: { type: 'string', default: '1' },
  },
});
console.log(
  `${cpus().length} x ${cpus()[0]?.model ?? 'unknown CPU'}, node ${process.version}, ${JSON.stringify(values)}`,
);
let seed = Number(values.seed);
const random = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647;
const dir = makeTempDir('outage');
const ends: (() => void)[] = [];
const kafka = await KafkaBroker.start();
const mosquitto = await Mosquitto.start();
const start = performance.now();
const seconds = (): string => ((performance.now() - start) / 1000).toFixed(1);
try {
  const { acknowledged, inKafka, repeats, flaws } = await runOutage({
    readings: Number(values.readings),
    kills: Number(values.kills),
    terminations: Number(values.terms),
    brokerDownMs: Number(values.down),
    ...{ kafka, mosquitto, dir, random },
    say: (text) => console.log(`${seconds().padStart(6)} s  ${text}`),
    atEnd: (end) => void ends.push(end),
  });
  console.log(
    `${seconds()} s: ${acknowledged} acknowledged, ${inKafka} in Kafka, at least ${repeats} repeats recognised`,
  );
  console.log(flaws.length === 0 ? 'each once, in order per sensor' : flaws.join('\n'));
  process.exitCode = flaws.length === 0 ? 0 : 1;
} finally {
  for (const end of ends) end();
  await Promise.all([kafka.close(), mosquitto.stop()]);
  rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
}
