/** What mounts reported: their caches, who uses them how much, and the hot files. */
import type { Mount, Pod } from './api.ts';
import { h } from './dom.ts';
import { bytes, duration, moment, perSecond, timeOfDay } from './format.ts';
import { empty, table } from './parts.ts';

const FILES_SHOWN = 15;
/** A mount that is used reports every ten seconds. */
const RESTING_MS = 30_000;

export function renderMounts(mounts: readonly Mount[]): Node {
  if (mounts.length === 0) return empty('Not mounted', 'penstock fs mount META_URL MOUNTPOINT');
  const used = (pick: (use: NonNullable<Mount['use']>) => number) => (mount: Mount) =>
    mount.use === null ? '–' : bytes(pick(mount.use));
  return table(
    'Mounts',
    [
      { title: 'Mount point', cell: ({ mountpoint }) => h('code', {}, mountpoint) },
      { title: 'Host', cell: ({ host }) => host },
      { title: 'Cached', cell: used(({ cachedBytes }) => cachedBytes), number: true },
      { title: 'From the store', cell: used(({ fetchedBytes }) => fetchedBytes), number: true },
      { title: 'From peers', cell: used(({ peerFetchedBytes }) => peerFetchedBytes), number: true },
      { title: 'To upload', cell: used(({ stagedBytes }) => stagedBytes), number: true },
      { title: 'Used last', cell: ({ use }) => (use === null ? 'not yet' : timeOfDay(use.atMs)) },
      { title: 'Process', cell: ({ pid }) => String(pid), number: true },
      { title: 'Since', cell: ({ startedMs }) => moment(startedMs) },
    ],
    mounts,
  );
}

/** The busiest first: who is in the way of whom stands beside each other. */
export function renderPods(pods: readonly Pod[]): Node {
  if (pods.length === 0)
    return empty('Nobody yet', 'Mounts report who reads and writes every ten seconds while they are used.');
  const newestMs = Math.max(...pods.map(({ atMs }) => atMs));
  const now = (pod: Pod): number =>
    pod.atMs < newestMs - RESTING_MS ? 0 : pod.perSecond.readBytes + pod.perSecond.writtenBytes;
  const total = (pod: Pod): number => readOf(pod) + writtenOf(pod);
  const rate = (pod: Pod, value: number): string => (now(pod) === 0 || value === 0 ? '' : `${bytes(value)}/s`);
  return table(
    'Who uses them',
    [
      { title: 'Who', cell: (pod) => h('span', { title: pod.id }, pod.name ?? pod.id) },
      { title: 'Kind', cell: ({ kind }) => (kind === 'none' ? '' : kind) },
      { title: 'Host', cell: ({ host }) => host },
      { title: 'Reading', cell: (pod) => rate(pod, pod.perSecond.readBytes), number: true },
      { title: 'Writing', cell: (pod) => rate(pod, pod.perSecond.writtenBytes), number: true },
      {
        title: 'Requests',
        cell: (pod) => (pod.perSecond.requests > 0 ? perSecond(pod.perSecond.requests) : ''),
        number: true,
      },
      { title: 'Wait, mean', cell: meanWait, number: true },
      { title: 'Cache hits', cell: hitRate, number: true },
      { title: 'Read', cell: (pod) => estimated(readOf(pod), pod.kernelReadBytes), number: true },
      { title: 'Written', cell: (pod) => estimated(writtenOf(pod), pod.kernelWrittenBytes), number: true },
    ],
    [...pods].sort((a, b) => now(b) - now(a) || total(b) - total(a)),
  );
}

const readOf = ({ readBytes, kernelReadBytes }: Pod): number => readBytes + kernelReadBytes;
const writtenOf = ({ writtenBytes, kernelWrittenBytes }: Pod): number => writtenBytes + kernelWrittenBytes;
const estimated = (sum: number, estimate: number): string => `${estimate > 0 ? '~ ' : ''}${bytes(sum)}`;
const hitRate = ({ reads, readsWaited }: Pod): string =>
  reads === 0 ? '' : `${Math.floor(100 * (1 - readsWaited / reads))} %`;

/** Of the last seconds, or where there were no requests in them since the mount began. */
function meanWait({ perSecond: now, requests, waitSeconds }: Pod): string {
  if (now.requests > 0) return duration(now.waitSeconds / now.requests);
  return requests === 0 ? '' : duration(waitSeconds / requests);
}

export function renderFiles(mounts: readonly Mount[]): Node {
  const files = mounts.flatMap(({ host, use }) => (use?.files ?? []).map((file) => ({ ...file, host })));
  if (files.length === 0) return empty('None lately', 'Files that are read or written through the mounts.');
  const heat = (file: (typeof files)[number]): number => file.readBytes + file.writtenBytes;
  return table(
    'Hot files',
    [
      { title: 'File', cell: ({ path, ino }) => h('code', {}, path ?? `inode ${ino}`), wide: true },
      { title: 'Host', cell: ({ host }) => host },
      { title: 'Read lately', cell: ({ readBytes }) => bytes(readBytes), number: true },
      { title: 'Written lately', cell: ({ writtenBytes }) => bytes(writtenBytes), number: true },
    ],
    files.sort((a, b) => heat(b) - heat(a)).slice(0, FILES_SHOWN),
  );
}
