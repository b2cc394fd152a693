import { spawnSync } from 'node:child_process';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Callers } from '../../../fs-gateway/callers/callers.ts';
import type { WorkloadCounts } from '../../../fs-gateway/callers/callers.ts';
import { parseDiskIo } from '../../../fs-gateway/callers/disk-io.ts';
import { HotFiles } from '../../../fs-gateway/callers/hot-files.ts';
import { mountIdsOf, parseOpenFile } from '../../../fs-gateway/callers/passed-through.ts';
import { parseStat } from '../../../fs-gateway/callers/process-files.ts';
import { diskCgroup, workloadOf } from '../../../fs-gateway/callers/workload.ts';
import { until } from '../../support/mount-guard.ts';

const UID = '2f1c8f7e-3a4b-4c5d-8e9f-0123456789ab';
const HEX = 'ab'.repeat(32);

describe('what a process belongs to', () => {
  const pod = { kind: 'pod', id: UID };
  const flat = UID.replaceAll('-', '_');
  const cases: readonly (readonly [name: string, cgroups: string, workload: object])[] = [
    [
      'cgroup v2, systemd driver',
      `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${flat}.slice/cri-containerd-${HEX}.scope\n`,
      pod,
    ],
    ['cgroup v2, cgroupfs driver', `0::/kubepods/besteffort/pod${UID}/${HEX}\n`, pod],
    ['guaranteed', `0::/kubepods.slice/kubepods-pod${flat}.slice/crio-${HEX}.scope\n`, pod],
    [
      'cgroup v1: any hierarchy',
      `9:name=systemd:/\n4:memory:/kubepods/burstable/pod${UID}/${HEX}\n1:cpu:/\n0::/\n`,
      pod,
    ],
    [
      'a static pod',
      `0::/kubepods/pod${UID.replaceAll('-', '')}/${HEX}\n`,
      { kind: 'pod', id: UID.replaceAll('-', '') },
    ],
    [
      'from within a cgroup namespace, nested',
      `0::/../../kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod${flat}.slice/cri-containerd-${HEX}.scope\n`,
      pod,
    ],
    ['docker', `0::/system.slice/docker-${HEX}.scope\n`, { kind: 'container', id: HEX.slice(0, 12) }],
    [
      'podman, no pod of Kubernetes',
      `0::/machine.slice/libpod-${HEX}.scope/container\n`,
      { kind: 'container', id: HEX.slice(0, 12) },
    ],
    ['a service', '0::/system.slice/train.service\n', { kind: 'unit', id: 'train.service' }],
    [
      'a service of a user, below it a group of its own',
      '0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service/inner\n',
      { kind: 'unit', id: 'app.service' },
    ],
    ['no group', '9:name=systemd:/\n0::/\n', { kind: 'command', id: 'python3' }],
    ['garbage', 'what\n\n:::\n', { kind: 'command', id: 'python3' }],
    ['a name that only looks like one', '0::/podsomething/pod12345\n', { kind: 'command', id: 'python3' }],
  ];
  it.each(cases)('%s', (_name, cgroups, workload) => {
    expect(workloadOf(cgroups, 'python3')).toEqual(workload);
  });

  it('is counted where the hierarchy counts block I/O', () => {
    expect(diskCgroup('7:blkio,io:/a\n0::/b\n')).toEqual({ version: 1, path: '/a' });
    expect(diskCgroup('7:blkio:/\n0::/b\n')).toEqual({ version: 2, path: '/b' });
    expect(diskCgroup('0::/\n')).toBeNull();
    expect(parseDiskIo('8:0 rbytes=10 wbytes=4 rios=1\n8:16 rbytes=1 wbytes=2\n')).toEqual({
      readBytes: 11,
      writtenBytes: 6,
    });
    expect(parseDiskIo('8:0 Read 7\n8:0 Write 3\n8:0 Total 10\nTotal 10\n')).toEqual({ readBytes: 7, writtenBytes: 3 });
  });
});

describe('what /proc says', () => {
  it('is read whatever the command is called', () => {
    const fields = Array.from({ length: 49 }, (_, n) => String(n + 4)).join(' ');
    expect(parseStat(`42 (a) S (b) R ${fields}`)).toEqual({ command: 'a) S (b', startTicks: '22' });
    expect(parseStat('nothing')).toBeNull();
    expect(parseOpenFile('pos:\t4096\nflags:\t0100002\nmnt_id:\t24\nino:\t7\n')).toEqual({
      position: 4096,
      isWritten: true,
      mountId: '24',
      ino: 7,
    });
    expect(parseOpenFile('pos:\t0\nflags:\t02\nmnt_id:\t15\n')).toBeNull();
    const table =
      '24 1 0:50 / /mnt rw - fuse.penstock a rw\n25 1 0:51 / /b rw - ext4 b rw\n26 1 0:50 / /pod rw - fuse.penstock a rw\n';
    expect([...mountIdsOf(table, '0:50')]).toEqual(['24', '26']);
  });
});

describe('hot files', () => {
  it('are those of the last minutes, and the hottest are never pushed out', () => {
    const files = new HotFiles();
    let nowMs = performance.now();
    files.add(1, 1000, 0, nowMs);
    for (const minutes of [20, 120]) {
      nowMs += minutes * 60_000;
      files.add(2, 200, 0, nowMs);
      files.add(3, 0, 600, nowMs);
      for (let ino = 10; ino < 3000; ino++) files.add(ino, 10, 0, nowMs);
      expect(files.top(2, nowMs)).toEqual([
        { ino: 3, readBytes: 0, writtenBytes: 600 },
        { ino: 2, readBytes: 200, writtenBytes: 0 },
      ]);
      expect(files.top(2000, nowMs).map(({ ino }) => ino)).not.toContain(1);
    }
    expect(files.top(1, nowMs + 60_000)).toEqual([{ ino: 3, readBytes: 0, writtenBytes: 300 }]);
  });
});

const named = (counts: readonly WorkloadCounts[], id: string): WorkloadCounts | undefined =>
  counts.find(({ workload }) => workload.id === id);

describe('callers', () => {
  const newCallers = (): Callers => {
    const callers = new Callers({ device: undefined, passesThrough: () => false });
    onTestFinished(() => callers.close());
    return callers;
  };

  it('lose nothing that was counted before a process was looked up, and say who had ended by then', async () => {
    const callers = newCallers();
    const dead = spawnSync('true').pid;
    for (const pid of [process.pid, dead, 0]) callers.of(pid).counts.requests++;
    await until('all are known', async () => named(await callers.snapshot(), 'new') === undefined);
    callers.of(process.pid).counts.requests++;
    const counts = await callers.snapshot();
    expect(named(counts, 'ended')?.counts.requests).toBe(1);
    expect(named(counts, 'unseen')?.counts.requests).toBe(1);
    expect(counts.filter(({ workload }) => workload.kind !== 'none').map((each) => each.counts.requests)).toEqual([2]);
  });

  it('are bounded: what is beyond the bound is counted together', async () => {
    const callers = newCallers();
    // No process has such an id.
    for (let pid = 5_000_000; pid < 5_005_000; pid++) callers.of(pid).counts.requests++;
    await until('all are known', async () => named(await callers.snapshot(), 'new') === undefined);
    const counts = await callers.snapshot();
    expect(named(counts, 'ended')?.counts.requests).toBe(4096);
    expect(named(counts, 'other')?.counts.requests).toBe(904);
  });
});
