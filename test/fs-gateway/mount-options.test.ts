import { createServer } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { mountVolume, parseMountOptions } from '../../fs-gateway/main.ts';
import { parseCapability } from '../../fs-gateway/csi/capabilities.ts';
import { testVolume } from '../support/fs-volume.ts';

test('options of the command line, and what is wrong with one', () => {
  expect(parseMountOptions(['ro,accesslog=/x=y', 'cacheGroup=gpu-1', 'peerListen=[::]:0,writeback,openCache'])).toEqual(
    {
      readOnly: true,
      accessLogPath: '/x=y',
      cacheGroup: 'gpu-1',
      peerListen: '[::]:0',
      writeback: true,
      openCache: true,
    },
  );
  const refused: readonly (readonly [string, RegExp])[] = [
    ['ro=yes', /-o ro=yes: expected accesslog=FILE, ro, .*cacheGroup=NAME/],
    ['passthrough=most', /expected accesslog/],
    ['cacheGroup=', /cacheGroup=: expected up to 64/],
    ['cacheGroup=a/b', /cacheGroup=a\/b: expected up to 64/],
    ['peerListen=10.0.0.7:9310', /peerListen=10.0.0.7:9310: it needs cacheGroup=NAME/],
    ['cacheGroup=a,peerListen=9310', /peerListen=9310: expected HOST:PORT/],
    ['cacheGroup=a,peerListen=host:70000', /host:70000/],
    ['cacheGroup=a,peerListen=u@host:1', /expected HOST:PORT/],
  ];
  for (const [text, message] of refused) expect(() => parseMountOptions([text]), text).toThrow(message);
});

test('mount options of a storage class are checked the same way, and none comes in behind a comma', () => {
  const parse = (...mountFlags: string[]): unknown =>
    parseCapability({ accessMode: { mode: 'MULTI_NODE_MULTI_WRITER' }, mount: { fsType: '', mountFlags } });
  expect(parse('cacheGroup=train', 'peerListen=0.0.0.0:0', 'rw')).toMatchObject({
    readOnly: false,
    mountOptions: { cacheGroup: 'train', peerListen: '0.0.0.0:0' },
  });
  expect(parse('ro', 'passthrough=read')).toMatchObject({ readOnly: true, mountOptions: { passthrough: 'read' } });
  expect(() => parse('cacheGroup=a,accesslog=/etc/x')).toThrow(/mount option 'cacheGroup=a,accesslog/);
  expect(() => parse('accesslog=/etc/x')).toThrow(/expected one of ro, rw/);
  expect(() => parse('peerListen=0.0.0.0:0')).toThrow(/needs cacheGroup/);
});

test('an address that a mount cannot listen on is told before it starts', async () => {
  const { metaUrl, base } = await testVolume();
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  onTestFinished(() => void taken.close());
  const peerListen = `127.0.0.1:${(taken.address() as AddressInfo).port}`; // a TCP server's address is never a string
  const mount = mountVolume({ metaUrl, mountpoint: base, cacheDir: base, cacheGroup: 'train', peerListen });
  await expect(mount).rejects.toMatchObject({
    code: 'config',
    message: expect.stringContaining('EADDRINUSE') as string,
  });
});
