/** `-o passthrough=full` on Redis and S3. */
import { describe } from 'vitest';
import { onServices } from '../support/fs-volume.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount, missing } from '../support/services.ts';
import { passthroughFullCases } from './passthrough-full-cases.ts';

describe.skipIf(cannotMount() || cannotPassThrough() || missing('redis-server', 'versitygw'))(
  'passthrough=full on Redis and S3',
  () => onServices(passthroughFullCases),
);
