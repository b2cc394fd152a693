import { defineConfig } from 'vitest/config';

/** `npm run e2e:nodes`: needs root and two minutes, so it is not part of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/nodes/nodes.e2e.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    pool: 'forks',
    reporters: ['verbose'],
  },
});
