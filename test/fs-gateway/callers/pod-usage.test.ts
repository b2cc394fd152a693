/** Who uses a real mount, by real cgroups where this machine lets us make them. */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { forgetPod, notePod } from '../../../fs-gateway/callers/pod-names.ts';
import type { Usage } from '../../../fs-gateway/callers/usage.ts';
import { mountStats, mountUsage } from '../../../fs-gateway/main.ts';
import type { WorkloadUsage } from '../../../lib/volume/mount-reports.ts';
import { mountTestVolume, testVolume } from '../../support/fs-volume.ts';
import { run, shell, start, until } from '../../support/mount-guard.ts';
import { cannotPassThrough } from '../../support/passthrough.ts';
import { cannotMount } from '../../support/services.ts';
import { makeWhole, volumeWithFile } from '../passthrough-volume.ts';
import { BESIDE_MS } from '../../support/hang.ts';

const MIB = 2 ** 20;
const penstock = join(import.meta.dirname, '..', '..', '..', 'bin', 'penstock');
/** Of version 2, of version 2 beside version 1, and of version 1 (whose block I/O is counted). */
const ROOTS = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified', '/sys/fs/cgroup/blkio'];
/** Of this run alone: what the driver notes of a pod, and cgroups, are the machine's. */
const PODS = { reader: randomUUID(), writer: randomUUID() };
const SYSTEMD = `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${PODS.reader.replaceAll('-', '_')}.slice`;
const CGROUPFS = `kubepods/besteffort/pod${PODS.writer}`;

/** A group in which a process can be put, removed with the test; undefined where that is not allowed. */
function makeCgroup(path: string): string | undefined {
  const root = ROOTS.findLast((candidate) => existsSync(join(candidate, 'cgroup.procs')));
  if (root === undefined) return undefined;
  const group = join(root, path, `penstock-test-${process.pid}`);
  onTestFinished(() => {
    for (let at = group; at !== root; at = dirname(at)) {
      try {
        rmdirSync(at);
      } catch {
        break; // Another run uses it.
      }
    }
  });
  try {
    mkdirSync(group, { recursive: true });
    return group;
  } catch {
    return undefined;
  }
}

const of = ({ workloads }: Usage, id: string): WorkloadUsage | undefined => workloads.find((each) => each.id === id);

describe.skipIf(cannotMount())('who uses a mount', () => {
  test('is told by pod, exactly, under either cgroup driver, with names where the driver was told them', async () => {
    const [reader, writer] = [makeCgroup(SYSTEMD), makeCgroup(CGROUPFS)];
    if (reader === undefined || writer === undefined) {
      process.stderr.write('skipped: no cgroup can be made here\n');
      return;
    }
    const mount = await mountTestVolume();
    // All of it by one process, which lives until it was looked at: of one that ends before, nobody can say whose it was.
    const within = async (group: string, script: string): Promise<void> => {
      const python = `import mmap, os, sys
root = sys.argv[1]
${script}
print('done', flush=True); sys.stdin.readline()`;
      const joined = `echo $$ > ${group}/cgroup.procs; exec python3 -c "$1" "$2"`;
      const { child, finished } = start('sh', ['-euc', joined, 'sh', python, mount.mountpoint], BESIDE_MS, 'pipe');
      let said = '';
      child.stdout?.on('data', (text: string) => (said += text));
      await until('it is done', () => said === 'done\n' || child.exitCode !== null);
      await until('it was looked at', async () => of(await mountUsage(mount.mountpoint), 'new') === undefined);
      child.stdin?.end('\n');
      expect(await finished).toMatchObject({ status: 0, stderr: '' });
    };
    await within(writer, "os.mkdir(root + '/data'); open(root + '/data/big', 'wb', buffering=0).write(bytes(3000000))");
    // Past the pages that the kernel has of it, and a name that the daemon refuses.
    await within(
      reader,
      `file = os.open(root + '/data/big', os.O_RDONLY | os.O_DIRECT)
assert os.preadv(file, [mmap.mmap(-1, 4 << 20)], 0) == 3000000
try: os.stat(root + '/' + 'x' * 300)
except OSError: pass`,
    );
    const pod = (name: string, uid: string): Record<string, string> => ({
      'csi.storage.k8s.io/pod.name': name,
      'csi.storage.k8s.io/pod.namespace': 'ml',
      'csi.storage.k8s.io/pod.uid': uid,
    });
    notePod(pod('train-0', PODS.reader));
    notePod(pod('Not A Name', PODS.writer));
    onTestFinished(() => forgetPod(`/var/lib/kubelet/pods/${PODS.reader}/volumes/x`));
    const usage = await mountUsage(mount.mountpoint);
    expect(of(usage, PODS.writer)).toMatchObject({ kind: 'pod', name: null, writtenBytes: 3_000_000, readBytes: 0 });
    expect(of(usage, PODS.reader)).toMatchObject({
      kind: 'pod',
      name: 'ml/train-0',
      readBytes: 3_000_000,
      writtenBytes: 0,
    });
    expect(of(usage, PODS.reader)?.errors).toBeGreaterThan(0);
    expect(of(usage, PODS.reader)?.kernelReadBytes).toBe(0);
    expect(usage.files[0]).toMatchObject({ path: '/data/big' });
    // As many bytes were read as written, and later: they weigh more.
    const [hottest = { readBytes: 0, writtenBytes: 0 }] = usage.files;
    expect(hottest.readBytes).toBeGreaterThan(hottest.writtenBytes);
    expect(hottest.writtenBytes).toBeGreaterThan(0);

    const table = await run(penstock, ['fs', 'stats', mount.mountpoint, '--by', 'pod']);
    expect(table.stdout).toMatch(new RegExp(`pod +${PODS.reader} +ml/train-0`));
    const files = await run(penstock, ['fs', 'stats', mount.mountpoint, '--by', 'file', '--json']);
    expect(JSON.parse(files.stdout)).toMatchObject([{ path: '/data/big' }]);
    forgetPod(`/var/lib/kubelet/pods/${PODS.reader}/volumes/x`);
    expect(of(await mountUsage(mount.mountpoint), PODS.reader)).toMatchObject({ name: null, readBytes: 3_000_000 });
  });

  test('is told by the command outside of pods and units, short ones too', async () => {
    const mount = await mountTestVolume();
    await shell('echo 12345 > "$1/f"; sync "$1/f"', mount.mountpoint);
    await shell('for i in $(seq 50); do dd if="$1/f" of=/dev/null iflag=direct status=none; done', mount.mountpoint);
    const { workloads } = await mountUsage(mount.mountpoint);
    const sum = (pick: (each: WorkloadUsage) => number): number =>
      workloads.reduce((total, each) => total + pick(each), 0);
    expect(sum(({ readBytes }) => readBytes)).toBe(50 * 6);
    expect(sum(({ writtenBytes }) => writtenBytes)).toBe(6);
  });

  test('is told when the worker runs again that stood still when it was asked', async () => {
    const mount = await mountTestVolume();
    await shell('echo 12345 > "$1/f"', mount.mountpoint);
    const workerPid = Number((await mountStats(mount.mountpoint)).workerPid);
    process.kill(workerPid, 'SIGSTOP');
    const asked = mountUsage(mount.mountpoint);
    asked.catch(() => undefined); // Awaited below.
    // These do not wait for it: by then it has been asked for long.
    const { worker } = await mountStats(mount.mountpoint);
    process.kill(workerPid, 'SIGCONT');
    expect(worker).toMatchObject({ error: expect.stringMatching(/did not answer/) as string });
    expect((await asked).files).toMatchObject([{ path: '/f', writtenBytes: expect.any(Number) as number }]);
  });

  test.skipIf(cannotPassThrough())('is estimated where the kernel serves the file by itself', async () => {
    const { volume } = await volumeWithFile((options) => testVolume(options), 'f', 3 * MIB);
    const mount = await mountTestVolume(volume, { passthrough: 'read' });
    await makeWhole(mount, 'f');
    const before = await mountUsage(mount.mountpoint);
    const { child, finished } = start(
      'python3',
      [
        '-c',
        `import sys\nf = open(sys.argv[1], 'rb', buffering=0)\nf.read(2000000)\nprint('read', flush=True)\nsys.stdin.readline()`,
        join(mount.mountpoint, 'f'),
      ],
      BESIDE_MS,
      'pipe',
    );
    let said = '';
    child.stdout?.on('data', (text: string) => (said += text));
    await until('it has read', () => said.includes('read'));
    const total = ({ workloads }: Usage, pick: (each: WorkloadUsage) => number): number =>
      workloads.reduce((sum, each) => sum + pick(each), 0);
    const after = await mountUsage(mount.mountpoint);
    expect(total(after, ({ kernelReadBytes }) => kernelReadBytes)).toBe(2_000_000);
    // A second look counts nothing twice, and nothing of it came to the daemon.
    const again = await mountUsage(mount.mountpoint);
    expect(total(again, ({ kernelReadBytes }) => kernelReadBytes)).toBe(2_000_000);
    expect(total(again, ({ readBytes }) => readBytes)).toBe(total(before, ({ readBytes }) => readBytes));
    child.stdin?.end('\n');
    await finished;
  });
});
