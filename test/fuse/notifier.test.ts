import { closeSync, existsSync, openSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { NotificationWriter } from '../../fs-gateway/fuse/notification-writer.ts';
import { Notifier } from '../../fs-gateway/fuse/notifier.ts';
import { mountToy, shell, start, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';

interface Written {
  readonly code: number;
  readonly body: Buffer;
}

/** A notifier whose device is a plain file. */
function toFile(knowsEpoch = true): { notifier: Notifier; written: () => Written[]; epochs: () => number } {
  const path = join(tempDir('notifier'), 'device');
  const fd = openSync(path, 'w');
  const writer = new NotificationWriter(fd);
  let epochs = 0;
  const notifier: Notifier = new Notifier(
    (batch) => {
      void writer.write(batch).then((count) => notifier.delivered(count));
    },
    knowsEpoch ? () => (epochs += 1) : undefined,
  );
  onTestFinished(() => {
    notifier.close();
    writer.close();
    closeSync(fd);
  });
  return {
    notifier,
    epochs: () => epochs,
    written() {
      const bytes = readFileSync(path);
      const list: Written[] = [];
      for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at)) {
        expect(bytes.readBigUInt64LE(at + 8)).toBe(0n);
        list.push({ code: bytes.readInt32LE(at + 4), body: bytes.subarray(at + 16, at + bytes.readUInt32LE(at)) });
      }
      return list;
    },
  };
}

describe('the notifier', () => {
  it('writes one notification per name and per inode, ranges widened to what covers both', async () => {
    const { notifier, written } = toFile();
    for (let i = 0; i < 5; i++) notifier.invalidateEntry(7n, 'name\u00ff');
    notifier.invalidateInode(9n, -1n, 0n);
    notifier.invalidateInode(9n, 4096n, 100n);
    notifier.invalidateInode(10n, 0n, 10n);
    notifier.invalidateInode(10n, 50n, 10n);
    await until('all are written', () => notifier.stats.written === 3);
    const [entry, nine, ten] = written();
    expect(entry?.code).toBe(3);
    expect(entry?.body.readBigUInt64LE(0)).toBe(7n);
    expect(entry?.body.readUInt32LE(8)).toBe(5);
    expect(entry?.body.subarray(16)).toEqual(Buffer.from('name\u00ff\0', 'latin1'));
    expect([nine?.code, nine?.body.readBigInt64LE(8), nine?.body.readBigInt64LE(16)]).toEqual([2, 4096n, 100n]);
    expect([ten?.body.readBigInt64LE(8), ten?.body.readBigInt64LE(16)]).toEqual([0n, 0n]);
  });

  it('drops all names at once when more wait than its bound', async () => {
    const { notifier, written, epochs } = toFile();
    for (let i = 0; i <= 65_536; i++) notifier.invalidateEntry(1n, `n${i}`);
    expect(epochs(), 'at once').toBe(1);
    notifier.invalidateInode(2n, 0n, 0n);
    expect(notifier.stats).toMatchObject({ pending: 1, overflows: 1, epochs: 1 });
    await until('all are written', () => notifier.stats.written === 1);
    expect(written().map(({ code }) => code)).toEqual([2]);
  });

  it('sends no epoch to a kernel that does not know it', async () => {
    const { notifier, written } = toFile(false);
    expect(notifier.incrementEpoch()).toBe(false);
    notifier.invalidateEntry(1n, 'a');
    await until('it is written', () => notifier.stats.written === 1);
    expect(written().map(({ code }) => code)).toEqual([3]);
  });
});

describe.skipIf(cannotMount())('notifications and the kernel', () => {
  it('makes the kernel look again at what it would have kept for a minute', async () => {
    const { mountpoint, root } = await mountToy({ ttlMs: 60_000 });
    const size = async (): Promise<string> => (await shell('stat -c %s "$1/f"', mountpoint)).trim();
    writeFileSync(join(root, 'f'), 'short');
    expect(await size()).toBe('5');
    truncateSync(join(root, 'f'), 1000);
    expect(await size()).toBe('5');
    await shell('stat "$1/@invalidate f" 2> /dev/null || true', mountpoint);
    await until('the kernel sees the new size', async () => (await size()) === '1000');
  });

  it('drops every name and attribute by INC_EPOCH', async () => {
    const { mountpoint, root } = await mountToy({ ttlMs: 60_000 });
    writeFileSync(join(root, 'f'), 'x');
    expect(await shell('ls "$1"; stat "$1/f" > /dev/null', mountpoint)).toBe('f\n');
    await shell('mv "$1/../root/f" "$1/../root/g"; stat "$1/f" > /dev/null', mountpoint);
    await shell('stat "$1/@epoch" 2> /dev/null || true', mountpoint);
    await until('the kernel sees the rename', async () =>
      (await shell('stat "$1/f" > /dev/null 2>&1 && echo old || echo gone', mountpoint)).startsWith('gone'),
    );
  });

  it('does not deadlock when a create that waits for the pool invalidates names of its own directory', async () => {
    const { mountpoint } = await mountToy({ ttlMs: 60_000 });
    const script = `cd "$1"; for i in 0 1 2 3 4 5; do : > other-$i; done
      for i in $(seq 20); do : > @create-$i & done; wait; ls | wc -l`;
    expect(await shell(script, mountpoint)).toBe('26\n');
  });

  it('a worker that is killed while a notification waits for the directory of its own request does not hang the mount', async () => {
    const { mountpoint, root, stats, supervisorPid } = await mountToy({ ttlMs: 60_000 });
    const creating = start('bash', ['-c', ': > "$1/@hold"; ls "$1"', 'bash', mountpoint]);
    const waits = (): boolean =>
      readdirSync(`/proc/${supervisorPid}/task`).some((thread) =>
        readFileSync(`/proc/${supervisorPid}/task/${thread}/wchan`, 'utf8').includes('inval_entry'),
      );
    await until('the notification waits in the kernel', () => existsSync(join(root, '@held')) && waits());
    process.kill((await stats()).workerPid, 'SIGKILL');
    expect((await creating.finished).stdout).toBe('@held\n@hold\n');
    expect(waits()).toBe(false);
  });
});
