/** `-o writeback` on SQLite and a directory. */
import { describe } from 'vitest';
import { testVolume } from '../support/fs-volume.ts';
import { cannotMount } from '../support/services.ts';
import { writebackCases } from './writeback-cases.ts';

describe.skipIf(cannotMount())('writeback', () => writebackCases(testVolume));
