import { defineConfig } from 'vitest/config';

/** `npm run test:kubernetes`: builds a control plane, and needs minutes, so it is not part of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/kubernetes/*.e2e.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    pool: 'forks',
    reporters: ['verbose'],
  },
});
