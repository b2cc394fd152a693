import { expect, test } from 'vitest';
import { openMeta } from '../lib/registry.ts';
import { parsePortUrl, textWithoutCredentials, withoutCredentials } from '../lib/urls.ts';

test('a password is never shown, also not of what is no URL', async () => {
  for (const text of ['redis://user:s3cret@127.0.0.1:99999/1', 'redis://:s3cret@[::1', 'redis://user:s3cret@a b/1']) {
    expect(textWithoutCredentials(text)).not.toContain('s3cret');
    await expect(openMeta(text, { kind: 'test' })).rejects.toMatchObject({
      code: 'config',
      message: expect.not.stringContaining('s3cret') as string,
    });
  }
  const url = parsePortUrl('redis+sentinel://user:s3cret@a:26379,b:26379/0?master=m');
  expect(url === null ? '' : withoutCredentials(url)).toMatch(/^redis\+sentinel:\/\/a.*b.*\/0\?master=m$/);
  expect(textWithoutCredentials('sqlite:./meta@home.db')).toBe('sqlite:./meta@home.db');
});
