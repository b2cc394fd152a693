/** Where connections may lead is judged at the socket: of the address that it connects to, whatever the name said before or says next. */
import { createServer, type AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { HostRules } from '../../control/connect/hosts.ts';
import { VendorCalls, type Target } from '../../control/connect/vendor-calls.ts';

const NAME = 'rebind.example.com';
const KEYS = { accessKeyId: 'AKIA-some-key', secretAccessKey: 'some-secret' };

/** By driver; none of them resolves. */
const targets = (port: number, isTenants: boolean): readonly Target[] => [
  { url: `redis://${NAME}:${port}/0`, credentials: {}, isTenants, party: null },
  { url: `rediss://${NAME}:${port}/0`, credentials: {}, isTenants, party: null },
  { url: `kafka://${NAME}:${port}`, credentials: {}, isTenants, party: null },
  { url: `kafka://${NAME}:${port}?tls=true`, credentials: {}, isTenants, party: null },
  { url: `s3://b?endpoint=http://${NAME}:${port}`, credentials: KEYS, isTenants, party: null },
  { url: `s3://b?endpoint=https://${NAME}:${port}&pathStyle=false`, credentials: KEYS, isTenants, party: null },
];

/** Counts who connects, and hangs up. */
async function doorstep(): Promise<{ readonly port: number; readonly knocks: () => number }> {
  let count = 0;
  const server = createServer((socket) => {
    count++;
    socket.on('error', () => undefined);
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return { port: (server.address() as AddressInfo).port, knocks: () => count }; // it listens on one
}

/** Rules for which the names are what `addressesOf` says at each time that they are asked. */
function callsWith(addressesOf: (time: number) => readonly string[], allowed: readonly string[] = []) {
  const asked: string[] = [];
  const rules = new HostRules(allowed, async (host) => {
    asked.push(host);
    return addressesOf(asked.length).map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
  });
  return { calls: new VendorCalls(rules), asked };
}

test('each socket connects to the address that was judged, and asks no name service again', async () => {
  const { port, knocks } = await doorstep();
  for (const target of targets(port, false)) {
    const before = knocks();
    const { calls, asked } = callsWith(() => ['127.0.0.1']);
    expect((await calls.test(() => target)).ok).toBe(false);
    expect([target.url, knocks() - before]).toEqual([target.url, asked.length]);
    expect(asked.length).toBeGreaterThan(0);
  }
});

test.each([
  ['169.254.169.254'],
  ['::ffff:169.254.169.254'],
  ['::ffff:a9fe:a9fe'],
  ['64:ff9b::a9fe:a9fe'],
  ['64:ff9b::6464:64c8'],
  ['2002:a9fe:a9fe::1'],
  ['fe80::1%eth0'],
  ['0.0.0.0'],
  ['::'],
  ['127.0.0.1', '100.100.100.200'],
])('a name that leads to %s is refused to everybody, by every driver, and nothing is sent', async (...addresses) => {
  const { port, knocks } = await doorstep();
  for (const target of targets(port, false)) {
    const { calls } = callsWith(() => addresses);
    expect([target.url, await calls.test(() => target)]).toEqual([
      target.url,
      expect.objectContaining({ ok: false, problem: expect.stringContaining('metadata') as string }),
    ]);
  }
  expect(knocks()).toBe(0);
});

test('a name that changes its addresses is judged at each socket', async () => {
  const { port, knocks } = await doorstep();
  const { calls } = callsWith((time) => [time === 1 ? '127.0.0.1' : '169.254.169.254']);
  // Two attempts: the first is hung up on, the second would be to the other address.
  const target = targets(port, false).find(({ url }) => url.startsWith('s3://'));
  if (target === undefined) throw new Error('no such target');
  expect((await calls.test(() => target)).problem).toContain('metadata');
  expect(knocks()).toBe(1);
});

test('a tenant’s name does not lead to this machine, unless it was named', async () => {
  const { port, knocks } = await doorstep();
  for (const [allowed, isReached] of [
    [['*.example.com'], false],
    [['*.example.com', 'localhost'], true],
    [['other.example.com'], false],
  ] as const) {
    for (const address of ['127.0.0.1', '::ffff:127.0.0.1']) {
      const { calls } = callsWith(() => [address], allowed);
      const before = knocks();
      for (const target of targets(port, true)) await calls.test(() => target);
      expect([allowed, address, knocks() > before]).toEqual([allowed, address, isReached]);
    }
  }
});
