/** `-o passthrough=read` on SQLite and a directory. */
import { describe } from 'vitest';
import { testVolume } from '../support/fs-volume.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import { passthroughReadCases } from './passthrough-read-cases.ts';

describe.skipIf(cannotMount() || cannotPassThrough())('passthrough=read', () => passthroughReadCases(testVolume));
