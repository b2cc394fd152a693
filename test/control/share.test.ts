/** What tenants use together: none of them takes all of it, or makes another wait behind its own. */
import { connect, type Socket } from 'node:net';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Shares, Turns } from '../../control/share.ts';
import { FIRST, openTwoTenants } from './two-tenants.ts';

describe('shares', () => {
  test('a party has half where there are several, and all of it where there is one', () => {
    const shares = new Shares({ total: 4, parties: 3 });
    expect([shares.take('a', 2), shares.take('a'), shares.take('b'), shares.take(null)]).toEqual([
      true,
      false,
      true,
      true,
    ]);
    // All are taken now.
    expect(shares.take('b')).toBe(false);
    shares.give('a', 2);
    expect([shares.take('b'), shares.take('b'), shares.take('a')]).toEqual([true, false, true]);
    const alone = new Shares({ total: 2, parties: 1 });
    expect([alone.take(null, 2), alone.take(null)]).toEqual([true, false]);
  });

  test('a place goes round the parties, however long one of them queues', async () => {
    const turns = new Turns({ total: 2, parties: 4 }, 5);
    const began: string[] = [];
    const ends: (() => void)[] = [];
    const work = (name: string) => (): Promise<void> =>
      new Promise((end) => {
        began.push(name);
        ends.push(end);
      });
    const all = ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1', 'c2'].map((name) => turns.run(name.slice(0, 1), work(name)));
    expect(began).toEqual(['a1', 'b1']);
    for (let count = 0; count < all.length; count++) {
      await expect.poll(() => ends.length).toBeGreaterThan(count);
      ends[count]?.();
    }
    await Promise.all(all);
    expect(began.filter((name) => !name.startsWith('a'))).toEqual(['b1', 'b2', 'c1', 'c2']);
    expect(began.indexOf('c1')).toBeLessThan(began.indexOf('a3'));
  });

  test('what waits of a party is bounded, and a failure gives its place back', async () => {
    const turns = new Turns({ total: 1, parties: 1 }, 1);
    const failing = turns.run('a', () => Promise.reject(new Error('no')));
    const waiting = turns.run('a', async () => 'done');
    await expect(turns.run('a', async () => 'more')).rejects.toMatchObject({ code: 'unavailable' });
    await expect(failing).rejects.toThrow('no');
    expect(await waiting).toBe('done');
    expect(await turns.run('b', async () => 'free')).toBe('free');
  });
});

describe('two tenants', () => {
  test('one that uses up its requests leaves the other’s', async () => {
    const { control, parties } = await openTwoTenants();
    const [a = '', b = ''] = parties.map(({ token }) => token);
    const ask = async (token: string, name: string): Promise<number> =>
      (await control.request('POST', `/v1/connections/${name}/test`, { token })).status;
    const statuses: number[] = [];
    for (let count = 0; count < 121; count++) statuses.push(await ask(a, 'team-a.none'));
    expect([statuses.at(-2), statuses.at(-1)]).toEqual([404, 429]);
    expect(await ask(b, 'team-b.none')).toBe(404);
    expect(await ask(FIRST, 'none')).toBe(404);
  });

  test('one that sends bodies and does not end them leaves the other room, and has it again when it goes away', async () => {
    const { control, parties } = await openTwoTenants();
    const [a = '', b = ''] = parties.map(({ token }) => token);
    const { hostname, port } = new URL(control.url);
    const sockets: Socket[] = [];
    const end = (): void => sockets.splice(0).forEach((socket) => socket.destroy());
    onTestFinished(end);
    const head = `POST /v1/sql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${a}\r\ncontent-type: application/json\r\ncontent-length: 262144\r\n\r\n`;
    for (let count = 0; count < 64; count++) {
      const socket = connect(Number(port), hostname, () => socket.write(head));
      socket.on('error', () => undefined);
      sockets.push(socket);
    }
    const ask = async (token: string): Promise<number> =>
      (await control.request('POST', '/v1/tokens', { token, body: { name: '', role: 'none' } })).status;
    await expect.poll(() => ask(a)).toBe(503);
    expect(await ask(b)).toBe(400);
    end();
    await expect.poll(() => ask(a)).toBe(400);
  });
});
