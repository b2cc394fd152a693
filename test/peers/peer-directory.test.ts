import { afterEach, expect, test } from 'vitest';
import { PeerDirectory } from '../../fs-gateway/peers/peer-directory.ts';
import type { SessionInfo } from '../../lib/meta/engine.ts';

const opened: PeerDirectory[] = [];
afterEach(() => {
  for (const directory of opened.splice(0)) directory.close();
});

function session(id: number, more: Partial<SessionInfo> = {}, detail: SessionInfo['detail'] = {}): SessionInfo {
  return {
    id,
    kind: 'mount',
    host: `node-${id}`,
    pid: 1,
    startedMs: 0,
    renewedMs: 0,
    live: true,
    ...more,
    detail: { volume: 'lake', cacheGroup: 'train', mountId: `mount-${id}`, peer: `10.0.0.${id}:9310`, ...detail },
  };
}

async function directory(
  self: number,
  sessions: readonly SessionInfo[],
  { serves = true }: { serves?: boolean } = {},
): Promise<PeerDirectory> {
  const made = new PeerDirectory({
    volume: 'lake',
    group: 'train',
    mountId: `mount-${self}`,
    host: `node-${self}`,
    serves,
    sessions: () => Promise.resolve(sessions),
  });
  opened.push(made);
  await made.refresh();
  return made;
}

const PIECES = Array.from({ length: 6000 }, (_, n) => `${100 + Math.floor(n / 4)}-${(n % 4) * 8_388_608}`);

/** Who keeps each piece in the eyes of a node, by session; the node itself by its own. */
function keepers(of: PeerDirectory, self: number): number[] {
  return PIECES.map((piece) => of.keeper(piece, () => true)?.session ?? self);
}

test('all members name the same keeper, each has about its share, and a member that goes moves only its own', async () => {
  const all = Array.from({ length: 6 }, (_, n) => session(n + 1));
  const views = await Promise.all(all.map(({ id }) => directory(id, all)));
  const [first = []] = views.map((view, n) => keepers(view, n + 1));
  for (const [n, view] of views.entries()) expect(keepers(view, n + 1)).toEqual(first);
  for (const { id } of all) {
    const share = first.filter((keeper) => keeper === id).length / PIECES.length;
    expect(share).toBeGreaterThan(0.13);
    expect(share).toBeLessThan(0.2);
  }
  const without = await directory(
    1,
    all.filter(({ id }) => id !== 4),
  );
  const moved = keepers(without, 1).filter((keeper, n) => keeper !== first[n]).length;
  expect(moved).toBe(first.filter((keeper) => keeper === 4).length);
  // A member that is put aside is passed over in the same order.
  const aside = PIECES.map((piece) => views[0]?.keeper(piece, (peer) => peer.session !== 4)?.session ?? 1);
  expect(aside).toEqual(keepers(without, 1));
});

test('who is not of the group, not of the volume, dead, or only on the loopback of another machine is not asked', async () => {
  const others = [
    session(2, {}, { cacheGroup: 'other' }),
    session(3, {}, { volume: 'other' }),
    session(4, { live: false }),
    session(5, {}, { peer: '127.0.0.1:9310' }),
    session(6, { kind: 'gc' }),
    session(7, {}, { peer: 7 }),
    session(8, { host: 'node-1' }, { peer: '127.0.0.1:9310' }),
    session(9, {}, { peer: '[::1]:9310' }),
  ];
  const view = await directory(1, others);
  expect(view.peers).toBe(1);
  expect(new Set(keepers(view, 1))).toEqual(new Set([1, 8]));
});

test('a restarted worker keeps its share under its newer session', async () => {
  const before = keepers(await directory(1, [session(2), session(3)]), 1);
  const successor = session(9, {}, { mountId: 'mount-2', peer: '10.0.0.2:9999' });
  const after = keepers(await directory(1, [successor, session(3), session(2)]), 1);
  expect(after).toEqual(before.map((keeper) => (keeper === 2 ? 9 : keeper)));
});

test('a node that serves nobody keeps nothing, and an engine that is away leaves the list as it was', async () => {
  let away = false;
  const view = new PeerDirectory({
    volume: 'lake',
    group: 'train',
    mountId: 'mount-1',
    host: 'node-1',
    serves: false,
    sessions: () => (away ? Promise.reject(new Error('away')) : Promise.resolve([session(2), session(3)])),
  });
  opened.push(view);
  await view.refresh();
  away = true;
  await view.refresh();
  expect(new Set(keepers(view, 1))).toEqual(new Set([2, 3]));
});
