import { getSystemErrorName } from 'node:util';
import { expect, test } from 'vitest';
import { fromSystemError } from '../lib/errors.ts';

test('a disk quota that is reached is `full`, though libuv has no name for EDQUOT', () => {
  const EDQUOT = -122; // Linux
  const error = Object.assign(new Error('write'), { errno: EDQUOT, code: getSystemErrorName(EDQUOT) });
  expect(fromSystemError(error, 'cannot write').code).toBe('full');
});
