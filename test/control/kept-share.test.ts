import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Tenants } from '../../control/auth/tenants.ts';
import { KeptShare } from '../../control/kept-share.ts';
import { openMeta } from '../../lib/registry.ts';
import { tempDir } from '../support/temp.ts';

const BUCKET = '{v}things';

async function opened(names: readonly string[]) {
  const engine = await openMeta(`sqlite:${join(tempDir('kept'), 'meta.db')}`, { kind: 'test' });
  onTestFinished(() => engine.close());
  const keep = (...fields: readonly string[]) =>
    engine.commit({ write: fields.map((field) => ({ key: { bucket: BUCKET, field }, value: Buffer.from('{}') })) });
  const share = new KeptShare({ what: 'things', remedy: 'throw some away', total: 6, tenants: new Tenants(names) });
  return { engine, keep, room: (party: string | null) => share.assertRoom(engine, BUCKET, party) };
}

test('a tenant keeps its half and no more, whatever it asks for, and the others have room then', async () => {
  const { engine, keep, room } = await opened(['a', 'b']);
  await keep('a.1', 'a.2');
  const scan = vi.spyOn(engine, 'scan');
  await room('a');
  // Whose they are is not asked while there are few.
  expect(scan).not.toHaveBeenCalled();
  await keep('a.3');
  await expect(room('a')).rejects.toThrow('tenant a has 3 things, which is its share');
  await room('b');
  await room(null);
  await keep('b.1', 'ours', 'ours-too');
  await expect(room('b')).rejects.toThrow('there are 6 things');
});

test('without tenants the platform may have all', async () => {
  const { keep, room } = await opened([]);
  await keep('1', '2', '3', '4', '5');
  await room(null);
  await keep('6');
  await expect(room(null)).rejects.toMatchObject({ code: 'full' });
});
