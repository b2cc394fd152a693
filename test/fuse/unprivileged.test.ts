import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { mountDirs, run } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

const NOBODY = '65534';

/** A mount namespace of its own with a /dev/fuse that everybody may open, as distributions have it; then a user who is not root. */
const AS_NOBODY = `
mknod "$1/fuse" c 10 229
chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse
export HOME="$1" XDG_RUNTIME_DIR="$1/run"
mkdir "$1/run"; chown -R ${NOBODY}:${NOBODY} "$1"
exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups "$2" "$3" "$4"`;

function cannotMountAsNobody(): boolean {
  if (!existsSync('/usr/bin/fusermount3')) {
    console.warn('skipped: fusermount3 (package fuse3) is not installed');
    return true;
  }
  const look = ['--reuid', NOBODY, '--regid', NOBODY, '--clear-groups', 'test', '-r', import.meta.filename];
  if (spawnSync('setpriv', look, { stdio: 'ignore', timeout: 60_000 }).status !== 0) {
    console.warn('skipped: a user who is not root cannot read this checkout');
    return true;
  }
  return false;
}

describe.skipIf(cannotMount() || cannotMountAsNobody())('a user who is not root', () => {
  it('mounts by fusermount3, survives a killed worker, and unmounts', async () => {
    const { base } = mountDirs();
    chmodSync(base, 0o755);
    const fuse = join(import.meta.dirname, '../../fs-gateway/fuse');
    const script = join(base, 'script.ts');
    writeFileSync(
      script,
      `import { execFileSync } from 'node:child_process';
       import { mountAndSupervise, umount } from '${fuse}/lifecycle.ts';
       import { controlRequest } from '${fuse}/control.ts';
       import { mountability } from '${fuse}/mount.ts';
       const base = process.argv[2];
       const mountpoint = base + '/mnt';
       const { how } = mountability();
       await mountAndSupervise({
         mountpoint, source: 'toy,with\\\\comma', readOnly: false, posixAcl: false, passthrough: false, background: true,
         workerModule: '${join(import.meta.dirname, '../support/toy-worker.ts')}', workerOptions: { root: base + '/root' },
       });
       const shell = (text) => execFileSync('bash', ['-euc', text], { timeout: 60_000, cwd: base, encoding: 'utf8' });
       const first = shell('echo hello > mnt/f; cat mnt/f; stat -c %u mnt/f');
       const stats = await controlRequest(mountpoint, { type: 'stats' });
       process.kill(stats.value.workerPid, 'SIGKILL');
       const second = shell('cat mnt/f');
       const report = await umount(mountpoint);
       console.log(JSON.stringify({ how, uid: process.getuid(), first, second, flushed: report.flushed }));`,
    );
    const args = [
      '-m',
      '--propagation',
      'private',
      'bash',
      '-euc',
      AS_NOBODY,
      'bash',
      base,
      process.execPath,
      script,
      base,
    ];
    const { stdout, stderr } = await run('unshare', args);
    expect(stdout, stderr).not.toBe('');
    expect(JSON.parse(stdout)).toEqual({
      how: 'fusermount3',
      uid: Number(NOBODY),
      first: `hello\n${NOBODY}\n`,
      second: 'hello\n',
      flushed: true,
    });
  });
});
