/** Runs once around the whole suite. Stale mounts of an earlier, killed run would hang whoever lists their parent. */
import { existsSync, readFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';

export function leftoverMounts(): string[] {
  if (process.platform !== 'linux') return [];
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, point, type]) => type === 'fuse.penstock' && point?.startsWith(`${tmpdir()}/penstock-test-`))
    .map(([, point]) => point ?? '');
}

/** Mount directories carry the pid of the test process that made them (`mount-guard.ts`): those of another run that is under way stay. */
function ownerLives(point: string): boolean {
  const pid = /\/penstock-test-mount-(\d+)-/.exec(point)?.[1];
  return pid !== undefined && existsSync(`/proc/${pid}`);
}

function unmountLeftovers(): void {
  for (const point of leftoverMounts().filter((p) => !ownerLives(p))) {
    spawnSync('umount', ['-l', point], { stdio: 'ignore', timeout: 10_000 });
  }
}

export function setup(): void {
  unmountLeftovers();
}

export function teardown(): void {
  unmountLeftovers();
}
