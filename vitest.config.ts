import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    // Tests start real servers, mounts and process trees; a hang must end as a failure with a name, never as a stuck run.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
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
