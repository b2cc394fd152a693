/** What no source can take, and a link that is refused: the agent says so and goes on. */
import { readFileSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createServer } from 'node:tls';
import { expect, onTestFinished, test } from 'vitest';
import { loadAgentConfig, runAgent } from '../../agent/main.ts';
import type { AgentStatus } from '../../agent/status.ts';
import { FakeKafka } from '../support/kafka-fake.ts';
import { makeCertificates } from '../support/certificates.ts';
import { tempDir } from '../support/temp.ts';
import { valuesIn } from './log-values.ts';
import { quarantinedIn } from './sources/support.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePorts } from '../support/ports.ts';

const WAIT = { timeout: HANG_MS, interval: 20 };

/** Runs until the test ends; resolves to what gives its newest status. */
async function start(dir: string, yaml: string): Promise<() => AgentStatus | undefined> {
  const path = join(dir, 'agent.yaml');
  writeFileSync(path, yaml);
  const stop = new AbortController();
  let newest: AgentStatus | undefined;
  const onStatus = (status: AgentStatus): void => {
    newest = status;
  };
  const { config, baseDir } = await loadAgentConfig(path);
  const running = runAgent({ config, baseDir, signal: stop.signal, onStatus, drainMs: 100 });
  onTestFinished(async () => {
    stop.abort();
    await running;
  });
  return () => newest;
}

test('readings of 10 MB are quarantined or refused with the reason by each source, and the others are taken', async () => {
  const dir = tempDir();
  const [http = 0, small = 0, syslog = 0] = await freePorts(3);
  const huge = 'x'.repeat(10_000_000);
  writeFileSync(join(dir, 'a.ndjson'), `{"n":1,"text":"${huge}"}\n{"n":2}\n`);
  const status = await start(
    dir,
    `agent: { id: a, dataDir: ./data }
log: file:./log
sources:
  - { type: file, path: ./a.ndjson, to: file, maxLineBytes: 64MiB, poll: 10ms }
  - { type: http, listen: '127.0.0.1:${small}', to: http }
  - { type: http, listen: '127.0.0.1:${http}', to: http, maxBodyBytes: 16MiB }
  - { type: syslog, listen: '127.0.0.1:${syslog}', transport: tcp, to: syslog }
`,
  );
  await expect.poll(() => status()?.readings, WAIT).toBe(1);
  const post = async (port: number, body: string): Promise<[number, string]> => {
    const answer = await fetch(`http://127.0.0.1:${port}/`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/x-ndjson' },
    });
    return [answer.status, await answer.text()];
  };
  expect(await post(small, `{"text":"${huge}"}`)).toEqual([413, expect.stringContaining('maxBodyBytes')]);
  const [code, text] = await post(http, `{"n":1}\n{"text":"${huge}"}`);
  expect([code, text]).toEqual([400, expect.stringContaining('at most 1048000 can be carried')]);
  expect((await post(http, '{"n":3}'))[0]).toBe(200);
  const sender = connect(syslog, '127.0.0.1');
  onTestFinished(() => void sender.destroy());
  sender.write(`<13>1 - h a - - - ${huge}\n<13>1 - h a - - - fine\n`);
  await expect.poll(() => status()?.readings, WAIT).toBe(3);
  const reasons = quarantinedIn(join(dir, 'data')).map(
    ({ source, reason }) => `${source.replace(/:.*/, '')}: ${reason}`,
  );
  expect(reasons.toSorted()).toEqual([
    expect.stringMatching(/^file: .*at most 1048000 can be carried/),
    expect.stringMatching(/^syslog: .*maxMessageBytes/),
  ]);
  await expect.poll(() => status()?.delivered, WAIT).toBe(3);
  expect((await valuesIn(dir, 'http')).map(({ n }) => n)).toEqual([3]);
});

test('a broker whose certificate has expired is named, the spool holds, and the link is there when it has a new one', async () => {
  const dir = tempDir();
  const { ca, server, expired } = makeCertificates(dir);
  const pem = ({ cert, key }: { cert: string; key: string }): { cert: Buffer; key: Buffer } => ({
    cert: readFileSync(cert),
    key: readFileSync(key),
  });
  const fake = await FakeKafka.start();
  const front = createServer(pem(expired), (socket) => {
    const behind = connect(fake.port, '127.0.0.1');
    socket.on('error', () => behind.destroy());
    behind.on('error', () => socket.destroy());
    socket.pipe(behind).pipe(socket);
  });
  front.on('tlsClientError', () => undefined);
  front.listen(0, '127.0.0.1');
  await once(front, 'listening');
  onTestFinished(() => void front.close());
  const address = front.address();
  if (address === null || typeof address === 'string') throw new Error('not listening');
  const status = await start(
    dir,
    `agent: { id: a, dataDir: ./data }
log: kafka://127.0.0.1:${address.port}?tls=true&ca=${ca}
sources: [{ type: simulator, count: 10, rate: 1000, to: t }]
`,
  );
  await expect.poll(() => status()?.readings, WAIT).toBe(10);
  await expect.poll(() => status()?.uplinkProblem ?? '', WAIT).toMatch(/certificate has expired/);
  expect(status()?.uplinkProblem).toContain(`127.0.0.1:${address.port}`);
  expect(status()).toMatchObject({ readings: 10, delivered: 0 });
  expect(fake.requests).toEqual([]);
  front.setSecureContext(pem(server));
  await expect.poll(() => fake.requests.length, WAIT).toBeGreaterThan(0);
});
