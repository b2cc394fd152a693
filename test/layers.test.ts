import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';

interface Cruise {
  readonly summary: {
    readonly violations: readonly { readonly rule: { readonly name: string } }[];
    readonly totalCruised: number;
  };
}

it('the layer rules hold, and the check sees the whole tree', () => {
  const output = execFileSync(
    'node_modules/.bin/depcruise',
    [
      '--config',
      '.dependency-cruiser.cjs',
      '--output-type',
      'json',
      'agent',
      'compactor',
      'fs-gateway',
      'control',
      'web',
      'lib',
      'bin',
    ],
    { encoding: 'utf8', maxBuffer: 1 << 28 },
  );
  // The shape is dependency-cruiser's documented result.
  const { summary } = JSON.parse(output) as Cruise;
  expect(summary.violations.map((violation) => violation.rule.name)).toEqual([]);
  expect(summary.totalCruised).toBeGreaterThan(100);
});
