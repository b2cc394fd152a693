/** The volume, its mounts, and every session of the metadata engine. */
import { api, type Mount, type PagedList, type Pod, type Session, type Volume } from './api.ts';
import { h } from './dom.ts';
import { bytes, count, counted, duration, moment } from './format.ts';
import { empty, facts, section, table, type View } from './parts.ts';
import { volumeTools } from './view-volume-tools.ts';
import { renderFiles, renderMounts, renderPods } from './view-mounts.ts';

export const volumes: View = {
  show(root, signal) {
    root.append(
      section({
        title: 'Volume',
        read: () => api<PagedList<Volume>>('/v1/volumes', { signal }),
        render: ({ items }) => h('div', {}, items.map(renderVolume)),
        everyMs: 5000,
        signal,
      }),
      section({
        title: 'Mounts',
        read: () => api<PagedList<Mount>>('/v1/mounts?limit=1000', { signal }),
        render: ({ items }) => renderMounts(items),
        everyMs: 5000,
        signal,
      }),
      section({
        title: 'Who uses them',
        note: 'By pod, or outside of Kubernetes by unit or command. ~: with what the kernel serves past the daemon, which is an estimate.',
        read: () => api<PagedList<Pod>>('/v1/pods?limit=1000', { signal }),
        render: ({ items }) => renderPods(items),
        everyMs: 5000,
        signal,
      }),
      section({
        title: 'Hot files',
        note: 'Bytes of the last minutes; they count half after one.',
        read: () => api<PagedList<Mount>>('/v1/mounts?limit=1000', { signal }),
        render: ({ items }) => renderFiles(items),
        everyMs: 5000,
        signal,
      }),
      ...volumeTools(signal),
      section({
        title: 'Sessions',
        note: 'Every program that holds a lease in the metadata engine. Those that ended without a word are shown for a week.',
        read: () => api<PagedList<Session>>('/v1/sessions', { signal }),
        render: ({ items }) => renderSessions(items),
        everyMs: 5000,
        signal,
      }),
    );
  },
};

function renderVolume(volume: Volume): Node {
  if (!volume.formatted)
    return empty(
      `${volume.name} is not formatted`,
      'penstock fs format makes it a file system; the lake works without.',
    );
  return h(
    'div',
    {},
    facts([
      ['Name', volume.name],
      ['Store', volume.store ?? ''],
      ['In use', `${bytes(volume.bytesUsed)} in ${counted(volume.inodesUsed, 'inode')}`],
      ['Block size', `${count((volume.blockSize ?? 0) / 2 ** 20)} MiB`],
      ['Inline up to', `${count((volume.inlineBytes ?? 0) / 1024)} KiB`],
      ['Grace period', duration((volume.graceMs ?? 0) / 1000)],
      ['Durability', volume.durability ?? ''],
      ['Formatted', volume.createdMs === null ? '' : moment(volume.createdMs)],
    ]),
  );
}

function renderSessions(sessions: readonly Session[]): Node {
  return table(
    'Sessions',
    [
      { title: 'Program', cell: ({ kind }) => kind },
      { title: 'State', cell: ({ live }) => h('span', { class: live ? 'tag good' : 'tag' }, live ? 'live' : 'ended') },
      { title: 'Host', cell: ({ host }) => host },
      { title: 'Process', cell: ({ pid }) => String(pid), number: true },
      { title: 'Started', cell: ({ startedMs }) => moment(startedMs) },
      { title: 'Last renewed', cell: ({ renewedMs }) => moment(renewedMs) },
      { title: 'Session', cell: ({ id }) => h('code', {}, String(id)) },
    ],
    sessions,
  );
}
