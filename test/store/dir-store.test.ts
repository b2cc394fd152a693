import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statfsSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { openDirStore } from '../../lib/store/dir/dir-store.ts';
import { UploadArea } from '../../lib/store/dir/upload-area.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { collect } from '../support/collect.ts';
import { HANG_MS } from '../support/hang.ts';
import { storeContract } from '../support/store-contract.ts';
import { tempDir } from '../support/temp.ts';

async function openAt(folder: string): Promise<ObjectStore> {
  return openDirStore(new URL(`dir:${folder}`));
}

describe('dir: store', () => {
  storeContract(async () => {
    const folder = tempDir('store');
    return { store: await openAt(folder), reopen: () => openAt(folder) };
  });

  it('serves a local path and a file location', async () => {
    const folder = tempDir('store');
    const store = await openAt(folder);
    await store.put('a/b', Buffer.from('x'));
    expect(existsSync(store.localPath('a/b') ?? '')).toBe(true);
    expect(store.location('a/b')).toBe(`file://${folder}/a/b`);
    expect(() => store.localPath('../x')).toThrow(/not an object key/);
  });

  it('refuses symbolic links below its root, and does not list them', async () => {
    const [folder, outside] = [tempDir('store'), tempDir('outside')];
    writeFileSync(join(outside, 'secret'), 'secret');
    const store = await openAt(folder);
    symlinkSync(outside, join(folder, 'link'));
    symlinkSync(join(outside, 'secret'), join(folder, 'file'));
    for (const key of ['link/secret', 'file']) await expect(store.get(key)).rejects.toMatchObject({ code: 'denied' });
    await expect(store.put('link/new', Buffer.from('x'))).rejects.toMatchObject({ code: 'denied' });
    await expect(store.delete(['link/secret'])).rejects.toMatchObject({ code: 'denied' });
    expect(readdirSync(outside)).toEqual(['secret']);
    expect(await collect(store.list(''))).toEqual([]);
  });

  it('puts and deletes in one folder do not disturb each other', async () => {
    const store = await openAt(tempDir('store'));
    const churn = async (worker: number): Promise<void> => {
      for (let n = 0; n < 25; n++) {
        await store.put(`x/y/${worker % 4}`, Buffer.from(`${worker}`));
        await store.delete([`x/y/${worker % 4}`]);
      }
      await store.put(`x/y/kept-${worker}`, Buffer.from('kept'));
    };
    await Promise.all(Array.from({ length: 8 }, (_, worker) => churn(worker)));
    expect((await collect(store.list('x/y/'))).filter(({ key }) => key.includes('kept'))).toHaveLength(8);
  });

  it('says that a key cannot be an object and a folder', async () => {
    const store = await openAt(tempDir('store'));
    await store.put('a', Buffer.from('x'));
    await expect(store.put('a/b', Buffer.from('x'))).rejects.toMatchObject({ code: 'unsupported' });
    expect(await store.head('a/b')).toBeNull();
  });

  it('removes old leftovers of dead processes when it opens, never those of a live one', async () => {
    const folder = tempDir('store');
    const store = await openAt(folder);
    await store.put('k', Buffer.from('x'));
    const uploads = join(folder, '.penstock', 'uploads');
    const dead = spawnSync('true').pid;
    const host = await ownPrefix(folder);
    const hourAgo = Date.now() / 1000 - 3600;
    for (const [name, seconds] of [
      [`${host}_${dead}_old`, hourAgo],
      [`${host}_${dead}_young`, Date.now() / 1000],
      [`${host}_${process.pid}_live`, hourAgo],
      ['otherhost_1_unknown', hourAgo],
      ['otherhost_1_ancient', hourAgo - 86_400],
    ] as const) {
      writeFileSync(join(uploads, name), 'x');
      utimesSync(join(uploads, name), seconds, seconds);
    }
    await openAt(folder);
    const left = readdirSync(uploads).map((name) => name.split('_')[2]);
    expect(left.sort()).toEqual(['live', 'unknown', 'young']);
  });

  it('killed in the middle of puts, holds whole objects only', async () => {
    const folder = tempDir('store');
    const child = spawn(process.execPath, [fileURLToPath(new URL('./dir-putter.ts', import.meta.url)), folder], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const acknowledged: string[] = [];
    child.stdout.on('data', (text: Buffer) => acknowledged.push(...text.toString().split('\n').filter(Boolean)));
    const deadline = performance.now() + HANG_MS;
    while (acknowledged.length < 30 && performance.now() < deadline) await sleep(5);
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('close', resolve));
    const store = await openAt(folder);
    const objects = await collect(store.list(''));
    for (const { key } of objects) {
      const bytes = await store.get(key);
      expect([key, bytes.length, bytes.every((byte) => byte === Number(key.slice(-1)))]).toEqual([key, 300_000, true]);
    }
    const lines = acknowledged.slice(0, -1);
    expect(lines.length).toBeGreaterThanOrEqual(29);
    expect(objects.map(({ key }) => key)).toEqual(expect.arrayContaining(lines));
  });

  it.skipIf(process.getuid?.() !== 0)('on a full disk fails with full and leaves nothing', async ({ skip }) => {
    const folder = tempDir('full');
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], { stdio: 'ignore' });
    if (mounted.status !== 0) skip('no right to mount a tmpfs');
    onTestFinished(() => void spawnSync('umount', ['-l', folder], { stdio: 'ignore' }));
    const store = await openAt(folder);
    const free = statfsSync(folder).bfree;
    await expect(store.put('big', Buffer.alloc(4_000_000))).rejects.toMatchObject({ code: 'full' });
    const source = join(tempDir(), 'in');
    writeFileSync(source, Buffer.alloc(4_000_000));
    await expect(store.putFile('big', source)).rejects.toMatchObject({ code: 'full' });
    expect(statfsSync(folder).bfree).toBe(free);
    expect(await collect(store.list(''))).toEqual([]);
    await store.put('small', Buffer.from('fits'));
  });

  it('refuses options that it does not have', async () => {
    await expect(openDirStore(new URL(`dir:${tempDir()}?sync=no`))).rejects.toMatchObject({ code: 'config' });
  });
});

/** The host part of the names in the upload area. */
async function ownPrefix(folder: string): Promise<string> {
  const area = await UploadArea.open(folder, Date.now());
  return /([^/_]+)_[^/]*$/.exec(area.newPath())?.[1] ?? '';
}
