/** `-o passthrough=read` on Redis and S3. */
import { describe } from 'vitest';
import { onServices } from '../support/fs-volume.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount, missing } from '../support/services.ts';
import { passthroughReadCases } from './passthrough-read-cases.ts';

describe.skipIf(cannotMount() || cannotPassThrough() || missing('redis-server', 'versitygw'))(
  'passthrough=read on Redis and S3',
  () => onServices(passthroughReadCases),
);
