import fc from 'fast-check';
import { expect, test } from 'vitest';
import { describeError } from '../lib/errors.ts';
import { absoluteUrl, describeDrivers, openLog, openMeta, openStore } from '../lib/registry.ts';
import { pathOfUrl, urlOfPath, hostsOfUrl, parsePortUrl, withoutCredentials } from '../lib/urls.ts';

/** Two halves that nothing else holds, and between them what splits a URL. */
const [FIRST, SECOND] = ['qZk7', 'xW9j'];
const between = fc.oneof(
  fc.constantFrom(
    '/',
    '@',
    '#',
    '?',
    ':',
    '%',
    '%2F',
    '%40',
    '%zz',
    '\\',
    '//',
    '/1?',
    ':1/',
    '&a=',
    ' ',
    '\n',
    '"',
    'ü',
    '＠',
    '🗝',
  ),
  fc.string({ unit: 'grapheme', maxLength: 6 }),
);
const password = fc
  .tuple(fc.constantFrom('', '1/', '6379/0?', '1#'), between, between)
  .map(([start, a, b]) => `${start}${FIRST}${a}${b}${SECOND}`);
const user = fc.constantFrom('', 'user', 'a@b', 'a/b');
const written = fc.constantFrom(
  (text: string) => text,
  encodeURIComponent,
  encodeURI,
  (text: string) => text.replace(/[/@]/g, encodeURIComponent),
);
const place = fc.constantFrom('h', 'h:1', 'h:1,i:2', '[::1]:1', '127.0.0.1:99999', 'h h', '');
const rest = fc.constantFrom('', '/0', '/1?volume=v', '/x/y', '?nonsense=1', '/0?durability=most', '/a b', '/%zz');

const showsNone = (text: string): void => {
  for (const half of [FIRST, SECOND]) expect(text).not.toContain(half);
};

test('a user and a password are never shown, whatever they hold, by any driver', async () => {
  const drivers = (await describeDrivers()).filter(({ scheme }) => !['file', 'dir', 'sqlite'].includes(scheme));
  expect(drivers.map(({ scheme }) => scheme)).toEqual(['kafka', 's3', 'redis', 'rediss', 'redis+sentinel']);
  const url = fc.record({
    scheme: fc.constantFrom(...drivers.map((driver) => driver.scheme)),
    user,
    password,
    written,
    place,
    rest,
  });
  await fc.assert(
    fc.asyncProperty(url, async ({ scheme, ...part }) => {
      const { port, vendor } = drivers.find((driver) => driver.scheme === scheme) ?? { port: 'log', vendor: null };
      const userInfo = part.written(part.password);
      for (const text of [
        `${scheme}://${part.user}:${userInfo}@${part.place}${part.rest}`,
        `${scheme}:${part.user}:${userInfo}@${part.place}${part.rest}`,
        `${scheme}://b/p?endpoint=https://${part.user}:${userInfo}@${part.place}`,
        `${scheme}://b/p?endpoint=${encodeURIComponent(`https://${part.user}:${userInfo}@${part.place}`)}`,
      ]) {
        showsNone(withoutCredentials(text));
        if (text.startsWith(`${scheme}://`)) showsNone(withoutCredentials(`{"note": "see ${text} and x@y.example"}`));
        const parsed = parsePortUrl(text);
        if (parsed !== null) {
          showsNone(withoutCredentials(parsed));
          // What a driver refuses before it connects anywhere, and so does the API of connections.
          for (const check of [() => vendor?.hosts(parsed), () => hostsOfUrl(parsed, 1)]) {
            try {
              check();
            } catch (error) {
              showsNone(describeError(error));
            }
          }
        }
        // One that could be connected to is another test's.
        if (parsed !== null && scheme.startsWith('redis')) continue;
        const open = { log: openLog, store: openStore, meta: (one: string) => openMeta(one, { kind: 'test' }) }[port];
        const error = await open(text).then(
          async (opened) => {
            const { url: shown } = opened;
            await opened.close();
            return new Error(shown);
          },
          (failure: unknown) => failure,
        );
        showsNone(describeError(error));
      }
    }),
    { numRuns: 300 },
  );
});

test('what is no credential stays, and what went along with one is told', () => {
  for (const text of [
    'sqlite:./meta@home.db',
    'dir:/data/a@b',
    's3://lake/p?region=us-east-1&endpoint=http%3A%2F%2Fh%3A9000',
    'kafka://a:1,b:2?sasl=plain&user=u',
    'no URL at all, a@b',
  ]) {
    expect(withoutCredentials(text)).toBe(text);
  }
  expect(withoutCredentials('redis://user:secret@h:1/0')).toBe('redis://h:1/0');
  expect(withoutCredentials('redis://user:se/cret@h:1/0')).toBe('redis://(hidden)@h:1/0');
  expect(parsePortUrl('s3://lake/team@home/p')?.pathname).toBe('/team@home/p');
  const url = parsePortUrl('redis+sentinel://user:s3cret@a:26379,b:26379/0?master=m');
  expect(url === null ? '' : withoutCredentials(url)).toMatch(/^redis\+sentinel:\/\/a.*b.*\/0\?master=m$/);
});

test('what hides them takes a step for each character, whatever somebody sends', () => {
  // By the square of the length, these would take minutes.
  for (const part of ['/', '//a', 'a://', '%2F%2F', '\\', 'a:/', '@/', '%4']) {
    const text = part.repeat(1_000_000);
    expect(withoutCredentials(text).length).toBeLessThanOrEqual(text.length);
    expect(withoutCredentials(`x://${text}`).length).toBeLessThanOrEqual(text.length + 4);
  }
});

test('a password that splits the URL is refused with how it is written', async () => {
  await expect(openMeta('redis://user:12/34@127.0.0.1/1', { kind: 'test' })).rejects.toMatchObject({
    code: 'config',
    message: expect.stringMatching(/^'redis:\/\/\(hidden\)@127\.0\.0\.1\/1' .*%2F/) as string,
  });
});

test('a path comes back out of its URL, whatever is in it', () => {
  for (const path of ['/a/b', '/a b/#x?y%41/ü', '/new\nline/--x', '/100%']) {
    for (const scheme of ['file', 'dir', 'sqlite'] as const) {
      const url = parsePortUrl(urlOfPath(scheme, path));
      expect(url === null ? null : [pathOfUrl(url), url.search, url.hash]).toEqual([path, '', '']);
      const relative = parsePortUrl(absoluteUrl(`${scheme}:./x`, path));
      expect(relative === null ? null : pathOfUrl(relative)).toBe(`${path}/x`);
    }
  }
});
