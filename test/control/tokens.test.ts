/** What is believed of tokens while the engine is away. */
import { expect, onTestFinished, test, vi } from 'vitest';
import { Tenants } from '../../control/auth/tenants.ts';
import { Tokens } from '../../control/auth/tokens.ts';
import { Connections } from '../../control/connections.ts';
import { systemClock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { HANG_MS } from '../support/hang.ts';

const FIRST = 'first-administrator-token-0123456789';
const AWAY = new PenstockError('unavailable', 'away');

/** Two servers of one volume; `told` resolves when the first one hears of the next change. */
async function twoServers() {
  const { config, dir } = await openTestPipeline();
  const open = async () => {
    const connections = await Connections.open(config, dir, systemClock);
    onTestFinished(() => connections.close());
    return { connections, tokens: new Tokens(connections, systemClock, new Tenants([])) };
  };
  const [{ connections, tokens }, other] = [await open(), await open()];
  const told = (): Promise<void> =>
    new Promise((resolve) => connections.listen({ onMessage: () => resolve(), onGap: () => undefined }));
  return { engine: connections.engine, tokens, other: other.tokens, told };
}

test('a token that was revoked while it was being looked up is not served by an engine that is away', async () => {
  const { engine, tokens, other, told } = await twoServers();
  await tokens.bootstrap(FIRST);
  const made = { id: crypto.randomUUID(), name: 'v', role: 'viewer', tenant: null, expiresMs: null } as const;
  const heardOfMaking = told();
  const { token } = await other.create(made);
  await heardOfMaking;
  const { promise: until, resolve: go } = Promise.withResolvers<undefined>();
  const read = engine.read.bind(engine);
  vi.spyOn(engine, 'read').mockImplementationOnce(async (keys) => {
    const found = await read(keys);
    await until;
    return found;
  });
  const found = tokens.find(token);
  const heardOfRevoking = told();
  await other.revoke(made.id, () => true);
  await heardOfRevoking;
  go(undefined);
  // It was asked before.
  expect(await found).toMatchObject({ name: 'v' });
  vi.spyOn(engine, 'read').mockRejectedValue(AWAY);
  await expect(tokens.find(token)).rejects.toBe(AWAY);
});

test('a server that heard of a first token does not take this machine for its administrator any more', async () => {
  const { engine, tokens, other, told } = await twoServers();
  expect(await tokens.any()).toBe(false);
  const heard = told();
  await other.bootstrap(FIRST);
  await heard;
  vi.spyOn(engine, 'count').mockRejectedValueOnce(AWAY);
  await expect(tokens.any()).rejects.toBe(AWAY);
  expect(await tokens.any()).toBe(true);
  await expect.poll(() => tokens.find(FIRST), { timeout: HANG_MS }).toMatchObject({ role: 'admin' });
});
