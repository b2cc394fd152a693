/** `-o writeback` on Redis and S3. */
import { describe } from 'vitest';
import { onServices } from '../support/fs-volume.ts';
import { cannotMount, missing } from '../support/services.ts';
import { writebackCases } from './writeback-cases.ts';

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))('writeback on Redis and S3', () =>
  onServices(writebackCases),
);
