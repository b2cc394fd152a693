import { defineConfig } from 'vitest/config';

/** `npm run test:spark`: installs 870 MB and starts JVMs, so it is not part of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/spark/*.e2e.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 300_000,
    pool: 'forks',
    reporters: ['verbose'],
  },
});
