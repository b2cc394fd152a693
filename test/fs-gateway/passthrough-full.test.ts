/** `-o passthrough=full` on SQLite and a directory. */
import { describe } from 'vitest';
import { testVolume } from '../support/fs-volume.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import { passthroughFullCases } from './passthrough-full-cases.ts';

describe.skipIf(cannotMount() || cannotPassThrough())('passthrough=full', () => passthroughFullCases(testVolume));
