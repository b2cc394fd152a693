/** Runs once around the whole suite. Stale mounts of an earlier, killed run would hang whoever lists their parent. */
import { existsSync, readFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isGone } from '../../lib/process-identity.ts';
import { HANG_MS } from './hang.ts';
import { makerOf } from './temp.ts';

/** Of test processes that have ended: those of another run that is under way stay. */
function leftoverMounts(): string[] {
  if (process.platform !== 'linux') return [];
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, point, type]) => type === 'fuse.penstock' && point?.startsWith(`${tmpdir()}/penstock-test-`))
    .map(([, point]) => point ?? '')
    .filter((point) => {
      const maker = makerOf(point);
      return maker !== undefined && isGone(maker);
    });
}

function unmountLeftovers(): void {
  for (const point of leftoverMounts()) {
    spawnSync('umount', ['-l', point], { stdio: 'ignore', timeout: 10_000 });
  }
}

/** Once for a checkout: what changes afterwards is compiled, and kept, by the next process that ends in order. */
function fillCompileCache(): void {
  if (existsSync(process.env['NODE_COMPILE_CACHE'] ?? '/')) return;
  spawnSync(process.execPath, [join(import.meta.dirname, 'compile-child.ts')], { stdio: 'ignore', timeout: HANG_MS });
}

export function setup(): void {
  unmountLeftovers();
  fillCompileCache();
}

export function teardown(): void {
  unmountLeftovers();
}
