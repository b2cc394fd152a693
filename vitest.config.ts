import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { HANG_MS } from './test/support/hang.ts';

// The tests start some thousands of processes that load the same modules: what one has compiled, and stripped of its types, the others take from there.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules', '.cache', 'penstock-compiled');

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    // Tests start real servers, mounts and process trees; a hang must end as a failure with a name, never as a stuck run.
    // The bounds are far above what anything takes: a machine that is ten times slower is no reason to fail. What waits for something inside a test
    // gives up before (HANG_MS), so that it is named.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    teardownTimeout: 60_000,
    expect: { poll: { timeout: HANG_MS } },
    pool: 'forks',
    maxWorkers: 2,
    reporters: ['default'],
    coverage: {
      provider: 'v8',
      include: ['agent/**/*.ts', 'compactor/**/*.ts', 'fs-gateway/**/*.ts', 'control/**/*.ts', 'lib/**/*.ts'],
      reporter: ['text-summary'],
    },
  },
});
