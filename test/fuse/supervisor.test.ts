import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { controlRequest } from '../../fs-gateway/fuse/control.ts';
import { mountAndSupervise, umount } from '../../fs-gateway/fuse/lifecycle.ts';
import {
  guardMount,
  isAlive,
  isMounted,
  mountDirs,
  mountToy,
  run,
  shell,
  start,
  until,
  type ToyMount,
} from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';
import { HANG_MS } from '../support/hang.ts';

const LOAD = `
cd "$1"
head -c 8388608 /dev/urandom > ../source
sum=$(md5sum < ../source)
end=$((SECONDS + 110)); rounds=0
while [ ! -e ../enough ] && [ $SECONDS -lt $end ]; do
  dd if=../source of=copy bs=64k status=none
  [ "$(md5sum < copy)" = "$sum" ] || { echo "checksums differ"; exit 1; }
  stat copy > ../stat-output
  mv copy copy2; mv copy2 copy; rounds=$((rounds + 1))
done
echo "rounds $rounds"`;

/** Runs dd, md5sum, stat and rename in a loop while `disturb` happens; fails when any of them does. */
async function underLoad(mount: ToyMount, disturb: () => Promise<void>): Promise<void> {
  const load = start('bash', ['-euc', LOAD, 'bash', mount.mountpoint]);
  await until('the load runs', async () => ((await mount.stats()).worker.operations?.['write']?.count ?? 0) > 100);
  await disturb();
  writeFileSync(join(mount.mountpoint, '../enough'), '');
  const { status, stdout, stderr } = await load.finished;
  expect(stderr).toBe('');
  expect(status, stdout).toBe(0);
  expect(stdout).toMatch(/^rounds [1-9]/);
}

describe.skipIf(cannotMount())('supervisor and worker', () => {
  it('hides three kill -9 of the worker from dd, md5sum, stat and mv', async () => {
    const mount = await mountToy();
    await underLoad(mount, async () => {
      for (let kill = 1; kill <= 3; kill++) {
        const { workerPid } = await mount.stats();
        process.kill(workerPid, 'SIGKILL');
        await until(`worker ${kill + 1} does work`, async () => {
          const { generation, state, worker } = await mount.stats();
          return generation === kill && state === 'serving' && (worker.operations?.['write']?.count ?? 0) > 20;
        });
      }
    });
    expect(await mount.stats()).toMatchObject({ restarts: 3, generation: 3, state: 'serving' });
  });

  it('upgrades under load: a new worker, and programs see nothing', async () => {
    const mount = await mountToy();
    const { workerPid } = await mount.stats();
    await underLoad(mount, async () => {
      const answer = await controlRequest(mount.mountpoint, { type: 'upgrade' }, HANG_MS);
      expect(answer).toMatchObject({ ok: true, value: { generation: 1 } });
    });
    const after = await mount.stats();
    expect(after).toMatchObject({ generation: 1, restarts: 0, state: 'serving' });
    expect(after.workerPid).not.toBe(workerPid);
    expect(isAlive(workerPid)).toBe(false);
  });

  it('replaces a worker that is stopped or hangs, and a reader that waits for it goes on', async () => {
    const mount = await mountToy({ patienceMs: 3_000 });
    writeFileSync(join(mount.root, 'f'), 'served by the next one\n');
    const { workerPid } = await mount.stats();
    process.kill(workerPid, 'SIGSTOP');
    expect((await start('cat', [join(mount.mountpoint, 'f')]).finished).stdout).toBe('served by the next one\n');
    expect(isAlive(workerPid)).toBe(false);
    expect((await mount.stats()).restarts).toBeGreaterThan(0);
    expect(readFileSync(mount.logPath, 'utf8')).toContain(`(pid ${workerPid}) answers nothing for 3 s: killing it`);
  });

  it('leaves a worker alone that knows of no pings, as after a rollback under a supervisor that does', async () => {
    const mount = await mountToy({ patienceMs: 600 });
    writeFileSync(join(mount.root, '@older'), '');
    expect(await controlRequest(mount.mountpoint, { type: 'upgrade' }, HANG_MS)).toMatchObject({ ok: true });
    const { workerPid, uptimeMs } = await mount.stats();
    await until('it would have been killed', async () => (await mount.stats()).uptimeMs > uptimeMs + 3_000);
    expect(await mount.stats()).toMatchObject({ workerPid, restarts: 0, state: 'serving' });
    expect(readFileSync(mount.logPath, 'utf8')).not.toContain('killing it');
  });

  it('answers an operation that was in flight when the worker was killed', async () => {
    const mount = await mountToy();
    writeFileSync(join(mount.root, '@stuck'), 'the answer');
    const reader = start('cat', [join(mount.mountpoint, '@stuck')]);
    await until('the read is in flight', async () => (await mount.stats()).worker.inFlight > 0);
    process.kill((await mount.stats()).workerPid, 'SIGKILL');
    await until('the read is in flight again', async () => {
      const { generation, state, worker } = await mount.stats();
      return generation === 1 && state === 'serving' && worker.inFlight > 0;
    });
    reader.child.kill('SIGKILL');
    expect((await reader.finished).signal).toBe('SIGKILL');
  });

  it('sends a request again under the operation id that the killed worker knew it by', async () => {
    const mount = await mountToy();
    const caller = start('stat', [join(mount.mountpoint, '@wait')]);
    const ids = (): string[] => {
      const path = join(mount.root, '@operations');
      return existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n') : [];
    };
    for (let generation = 1; generation <= 2; generation++) {
      await until('the lookup reached a worker', () => ids().length === generation);
      const { workerPid } = await mount.stats();
      process.kill(workerPid, 'SIGKILL');
      await until('it is dead', () => !isAlive(workerPid));
      await until('the next one serves', async () => (await mount.stats()).state === 'serving');
    }
    await until('the lookup reached the third worker', () => ids().length === 3);
    expect(new Set(ids()).size).toBe(1);
    caller.child.kill('SIGKILL');
    expect((await caller.finished).signal).toBe('SIGKILL');
  });

  it('leaves no hung mount when the supervisor is killed -9', async () => {
    const mount = await mountToy();
    const { workerPid } = await mount.stats();
    writeFileSync(join(mount.root, 'f'), 'x');
    process.kill(mount.supervisorPid, 'SIGKILL');
    await until('the worker ended', () => !isAlive(workerPid));
    expect(isMounted(mount.mountpoint)).toBe(false);
    expect(await shell('ls -A "$1"', mount.mountpoint)).toBe('');
  });

  it('clears away the dead mount that a killed process group leaves, and mounts anew', async () => {
    const mount = await mountToy();
    process.kill(-mount.supervisorPid, 'SIGKILL');
    await until('everything is dead', () => !isAlive(mount.supervisorPid));
    await until('the mount is dead', async () =>
      (await run('ls', [mount.mountpoint])).stderr.includes('not connected'),
    );
    const again = await mountAndSupervise(toyRequest(mount.mountpoint, mount.root));
    expect(await shell('echo new > "$1/f"; cat "$1/f"', mount.mountpoint)).toBe('new\n');
    await again.stop();
    expect(isMounted(mount.mountpoint)).toBe(false);
  });

  it('says who holds a mount point that is mounted already', async () => {
    const mount = await mountToy();
    await expect(mountAndSupervise(toyRequest(mount.mountpoint, mount.root))).rejects.toMatchObject({
      code: 'held',
      message: expect.stringContaining(`supervisor pid ${mount.supervisorPid}`) as string,
    });
    expect((await mount.stats()).state).toBe('serving');
  });

  it('fails the mount, and leaves nothing behind, when the first worker cannot start', async () => {
    const { mountpoint, root } = mountDirs();
    guardMount(mountpoint);
    writeFileSync(join(root, '@fail'), '');
    await expect(mountAndSupervise(toyRequest(mountpoint, root))).rejects.toThrow(/told to fail/);
    expect(isMounted(mountpoint)).toBe(false);
    await expect(umount(mountpoint)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('refuses to unmount under open files, unless lazily: then the open file goes on', async () => {
    const mount = await mountToy();
    writeFileSync(join(mount.root, 'f'), 'still here\n');
    const reader = start('bash', [
      '-c',
      'exec 3< "$1/f"; echo open; while [ ! -e "$1/../go" ]; do sleep 0.05; done; cat <&3',
      'bash',
      mount.mountpoint,
    ]);
    await until('the file is open', async () => ((await mount.stats()).worker.operations?.['open']?.count ?? 0) > 0);
    await expect(umount(mount.mountpoint)).rejects.toMatchObject({ code: 'held' });
    expect((await mount.stats()).state).toBe('serving');
    expect(await umount(mount.mountpoint, { lazy: true })).toMatchObject({ by: 'supervisor', flushed: true });
    expect(isMounted(mount.mountpoint)).toBe(false);
    writeFileSync(join(mount.mountpoint, '../go'), '');
    expect((await reader.finished).stdout).toBe('open\nstill here\n');
    await until('the supervisor ended', () => !isAlive(mount.supervisorPid));
  });

  it('frees the mount point at a lazy unmount: another mount lives there beside the open file', async () => {
    const mount = await mountToy();
    writeFileSync(join(mount.root, 'f'), 'old\n');
    const script = 'exec 3< "$1/f"; echo open; while [ ! -e "$1/../go" ]; do sleep 0.05; done; cat <&3';
    const reader = start('bash', ['-c', script, 'bash', mount.mountpoint]);
    await until('the file is open', async () => ((await mount.stats()).worker.operations?.['open']?.count ?? 0) > 0);
    await umount(mount.mountpoint, { lazy: true });
    const next = await mountAndSupervise(toyRequest(mount.mountpoint, mount.root));
    expect((await mount.stats()).supervisorPid).toBe(next.supervisorPid);
    writeFileSync(join(mount.mountpoint, '../go'), '');
    expect((await reader.finished).stdout).toBe('open\nold\n');
    await until('the first supervisor ended', () => !isAlive(mount.supervisorPid));
    expect((await mount.stats()).supervisorPid).toBe(next.supervisorPid);
    expect(await shell('ls "$1"', mount.mountpoint)).toBe('f\n');
    await next.stop();
  });

  it('keeps trying, with a message each, while no worker can start; programs wait and go on', async () => {
    const mount = await mountToy();
    writeFileSync(join(mount.root, 'f'), 'patience\n');
    writeFileSync(join(mount.root, '@fail'), '');
    process.kill((await mount.stats()).workerPid, 'SIGKILL');
    await until('two workers failed', async () => (await mount.stats()).restarts >= 2);
    expect((await mount.stats()).state).toBe('restarting');
    expect(readFileSync(mount.logPath, 'utf8')).toMatch(/ended \(SIGKILL\); starting another\n[^]*told to fail/);
    const reader = start('cat', [join(mount.mountpoint, 'f')]);
    await expect(umount(mount.mountpoint)).rejects.toThrow(/stays mounted: no worker serves/);
    rmSync(join(mount.root, '@fail'));
    expect((await reader.finished).stdout).toBe('patience\n');
    expect((await mount.stats()).state).toBe('serving');
  });

  it('is unmounted by force while no worker can start', async () => {
    const mount = await mountToy();
    writeFileSync(join(mount.root, '@fail'), '');
    process.kill((await mount.stats()).workerPid, 'SIGKILL');
    await until('a worker failed', async () => (await mount.stats()).restarts >= 1);
    // Through a symbolic link, and without a look into the mount, which nobody answers.
    const link = join(mount.root, '../link');
    symlinkSync('mnt', link);
    expect(await umount(link, { force: true })).toMatchObject({
      mountpoint: mount.mountpoint,
      by: 'supervisor',
      flushed: false,
    });
    await until('the supervisor ended', () => !isAlive(mount.supervisorPid));
    expect(isMounted(mount.mountpoint)).toBe(false);
  });

  it('unmounts and ends at SIGTERM', async () => {
    const mount = await mountToy();
    const { workerPid } = await mount.stats();
    process.kill(mount.supervisorPid, 'SIGTERM');
    await until('both ended', () => !isAlive(mount.supervisorPid) && !isAlive(workerPid));
    expect(isMounted(mount.mountpoint)).toBe(false);
    expect(readFileSync(mount.logPath, 'utf8')).toBe('');
  });

  it('ends when somebody else unmounts it', async () => {
    const mount = await mountToy();
    expect((await run('umount', [mount.mountpoint])).status).toBe(0);
    await until('the supervisor ended', () => !isAlive(mount.supervisorPid));
  });

  it('unmounts by itself what no supervisor serves any more', async () => {
    const mount = await mountToy();
    process.kill(-mount.supervisorPid, 'SIGKILL');
    await until('everything is dead', () => !isAlive(mount.supervisorPid));
    expect(await umount(mount.mountpoint)).toEqual({ mountpoint: mount.mountpoint, by: 'kernel', flushed: false });
    expect(isMounted(mount.mountpoint)).toBe(false);
  });

  function toyRequest(mountpoint: string, root: string) {
    return {
      mountpoint,
      source: 'toy',
      readOnly: false,
      posixAcl: false,
      passthrough: false,
      background: true,
      workerModule: join(import.meta.dirname, '../support/toy-worker.ts'),
      workerOptions: { root },
    };
  }
});
