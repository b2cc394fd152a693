import { expect, test } from 'vitest';
import { cloneTree } from '../../fs-gateway/tools/clone.ts';
import { fsckVolume } from '../../fs-gateway/tools/main.ts';
import { ACCESS_ACL, decodeAcl, DEFAULT_ACL, encodeAcl } from '../../fs-gateway/vfs/acl.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { systemClock } from '../../lib/clock.ts';
import { openMeta } from '../../lib/registry.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { errnoOf, lookUp, makeDirectory, writeFile } from '../tools/volume-files.ts';

const ANY_ID = 0xffffffff;
const DEFAULTS = encodeAcl([
  { tag: 1, permissions: 7, id: ANY_ID },
  { tag: 2, permissions: 6, id: 1001 },
  { tag: 4, permissions: 5, id: ANY_ID },
  { tag: 16, permissions: 7, id: ANY_ID },
  { tag: 32, permissions: 0, id: ANY_ID },
]);

test('what is not an access control list is EINVAL, whatever its bytes', () => {
  expect(encodeAcl(decodeAcl(DEFAULTS)).equals(DEFAULTS)).toBe(true);
  for (let bytes = 0; bytes < DEFAULTS.length; bytes++) {
    const cut = DEFAULTS.subarray(0, bytes);
    if (bytes === 4) expect(decodeAcl(cut)).toEqual([]);
    else expect(() => decodeAcl(cut), `${bytes} bytes`).toThrow('not an access control list');
  }
  const version = Buffer.from(DEFAULTS);
  version[0] = 3;
  expect(() => decodeAcl(version)).toThrow('not an access control list');
  const permissions = Buffer.from(DEFAULTS);
  permissions[6] = 8;
  expect(() => decodeAcl(permissions)).toThrow('not an access control list');
});

test('lists are inherited in the commit of the creation, by two mounts alike, also without a name, and a clone has them', async () => {
  const volume = await testVolume();
  const [open, other] = [await openTestVolume(volume), await openTestVolume(volume, 'b')];
  const directory = await makeDirectory(open, 'd');
  await open.operations.setxattr(caller(), directory, DEFAULT_ACL, DEFAULTS, 0, false);
  for (const mount of [open, other]) {
    const { entry } = await mount.operations.create(caller(), directory, mount === open ? 'a' : 'b', 0o664, 2, 0o077);
    expect(entry.attributes.mode & 0o777).toBe(0o660);
    const list = await mount.operations.getxattr(caller(), entry.attributes.ino, ACCESS_ACL);
    expect(decodeAcl(list).map(({ permissions }) => permissions)).toEqual([6, 6, 5, 6, 0]);
  }
  const { entry } = await open.operations.tmpfile(caller(), directory, 0o600, 2, 0);
  await open.operations.link(caller(), entry.attributes.ino, directory, 'c');
  expect(decodeAcl(await open.operations.getxattr(caller(), entry.attributes.ino, ACCESS_ACL))).toHaveLength(5);
  // Another list of the directory counts at once, on every mount.
  await other.operations.removexattr(caller(), directory, DEFAULT_ACL);
  await expect
    .poll(async () => errnoOf(() => open.operations.getxattr(caller(), directory, DEFAULT_ACL)))
    .toBe(Errno.ENODATA);
  const plain = await writeFile(open, 'plain', Buffer.from('x'), directory);
  expect(await errnoOf(() => open.operations.getxattr(caller(), plain, ACCESS_ACL))).toBe(Errno.ENODATA);
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  await cloneTree({ engine, volume: 'lake', clock: systemClock }, '/d', '/copy').finally(() => engine.close());
  const reader = await openTestVolume(volume, 'reader');
  const copy = (await lookUp(reader, (await lookUp(reader, 1n, 'copy')).ino, 'a')).ino;
  expect(decodeAcl(await reader.operations.getxattr(caller(), copy, ACCESS_ACL))).toHaveLength(5);
  await reader.operations.setattr(caller(), copy, { mode: 0o640 });
  const list = decodeAcl(await reader.operations.getxattr(caller(), copy, ACCESS_ACL));
  expect(list.map(({ permissions }) => permissions)).toEqual([6, 6, 5, 4, 0]);
  expect((await fsckVolume(volume)).findings).toEqual([]);
});

test('setgid falls where whoever sets the list is not of the group', async () => {
  const volume = await testVolume();
  const open = await openTestVolume(volume);
  const file = await writeFile(open, 'f', Buffer.from('x'));
  for (const [kill, mode] of [
    [false, 0o2760],
    [true, 0o760],
  ] as const) {
    await open.operations.setattr(caller(), file, { mode: 0o2755 });
    await open.operations.setxattr(caller(), file, ACCESS_ACL, DEFAULTS, 0, kill);
    const { attributes } = await open.operations.getattr(caller(), file, undefined);
    expect(attributes.mode & 0o7777).toBe(mode === 0o2760 ? 0o2770 : 0o770);
  }
});
