/** What a mount shows while and after it is cut off from the metadata engine for longer than its lease. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { mountTestVolume } from '../support/fs-volume.ts';
import { BESIDE_MS } from '../support/hang.ts';
import { run, start, until } from '../support/mount-guard.ts';
import { startRedis } from '../support/redis.ts';
import { cannotMount, missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';

const LOOK = `
import os, sys
mount = sys.argv[1]
print('name', os.path.exists(mount + '/file'), os.path.exists(mount + '/new'), open(mount + '/kept').read(), flush=True)
`;
/** Keeps a file open, and tells of it again for each line. */
const KEEP = `
import os, sys
fd = os.open(sys.argv[1] + '/kept', os.O_RDONLY)
for line in sys.stdin:
    print(os.pread(fd, 100, 0).decode(), os.fstat(fd).st_size, flush=True)
`;

test.skipIf(cannotMount() || missing('redis-server'))(
  'at the loss of its lease a mount forgets all it knows, in the kernel too, and shows nothing older when it is back',
  async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
    const link = await TcpProxy.start(() => redis.port);
    onTestFinished(() => link.close());
    const a = await mountTestVolume(volume);
    const b = await mountTestVolume({ ...volume, metaUrl: `redis://127.0.0.1:${link.port}/0` });
    await run('bash', ['-ec', 'printf old > $1/kept; : > $1/file', 'bash', a.mountpoint]);
    const look = async (): Promise<string> => (await run('python3', ['-c', LOOK, b.mountpoint])).stdout.trim();
    await until('the other mount has the files', async () => (await look()) === 'name True False old');
    const keeper = start('python3', ['-c', KEEP, b.mountpoint], BESIDE_MS, 'pipe');
    let said = '';
    keeper.child.stdout?.on('data', (text: string) => (said += text));
    keeper.child.stdin?.write('\n');
    await until('the file is open', () => said === 'old 3\n');

    link.cut();
    const changes = 'mv $1/file $1/new; printf changed > $1/kept';
    expect(await run('bash', ['-ec', changes, 'bash', a.mountpoint])).toMatchObject({ status: 0, stderr: '' });
    await until('the lease is over', () => readFileSync(b.logPath, 'utf8').includes('metadata session lost'));
    // The kernel would answer at once from what it had for a minute: it has to wait for the engine instead.
    const looked = look();
    link.restore();
    expect(await looked).toBe('name False True changed');
    await until('what is open is read anew', () => {
      keeper.child.stdin?.write('\n');
      return said.endsWith('changed 7\n');
    });
    keeper.child.stdin?.end();
    await keeper.finished;
  },
);
