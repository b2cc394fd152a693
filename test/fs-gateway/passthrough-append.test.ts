/** Appends to a file that the kernel may be writing too (`passthrough=full`), over the death of the worker between a commit and its note on the local disk. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume, umountVolume } from '../../fs-gateway/main.ts';
import { mountTestVolume, openTestVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { startRedis } from '../support/redis.ts';
import { cannotMount, missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';
import {
  appendElsewhere,
  converse,
  killWorker,
  readElsewhere,
  sizeElsewhere,
  volumeStats,
} from './passthrough-volume.ts';

/** Once more open, so that closing one handle commits what is appended by the other. */
const APPENDER = `import threading
plain = os.open(path, os.O_RDWR | os.O_CREAT); os.pwrite(plain, b's' * int(hear()), 0); os.fsync(plain)
log = os.open(path, os.O_WRONLY | os.O_APPEND); os.write(log, b'one'); say('appended'); hear()
closing = threading.Thread(target=os.close, args=(plain,)); closing.start(); say('closing'); hear()
os.write(log, b'two'); say('appended'); hear()
closing.join(); os.write(log, b'three'); os.close(log); say('closed'); hear()`;

test.skipIf(cannotMount() || cannotPassThrough() || missing('redis-server')).each([
  { where: 'in the metadata', startBytes: 100, others: '' },
  { where: 'in objects, with an append of another node behind it', startBytes: 300_000, others: 'OTHER' },
])(
  'what was appended while a commit was under way is there once, though the worker died before it heard of the commit: $where',
  async ({ startBytes, others }) => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
    const other = await openTestVolume(volume, 'other');
    const link = await TcpProxy.start(() => redis.port);
    onTestFinished(() => link.close());
    const mount = await mountTestVolume(
      { ...volume, metaUrl: `redis://127.0.0.1:${link.port}/0` },
      { passthrough: 'full' },
    );
    const program = converse(mount, 'log', APPENDER);
    program.say(String(startBytes));
    expect(await program.hear()).toBe('appended');
    expect((await volumeStats(mount)).passthroughOpens).toBeGreaterThan(1);

    void link.swallowAnswers();
    program.say('close');
    expect(await program.hear()).toBe('closing');
    await until('the commit is made', async () => (await sizeElsewhere(other, 'log')) === startBytes + 3);
    program.say('append');
    expect(await program.hear()).toBe('appended');
    if (others !== '') await appendElsewhere(other, 'log', others);
    link.deliverAnswers();
    await killWorker(mount);
    program.say('close');
    expect(await program.hear()).toBe('closed');
    program.say('end');
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const expected = `${'s'.repeat(startBytes)}one${others}twothree`;
    await until('it is heard of', async () => (await sizeElsewhere(other, 'log')) === expected.length);
    expect((await readElsewhere(other, 'log')).toString()).toBe(expected);
  },
);
