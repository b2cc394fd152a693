/** What is done to the volume: snapshots, quotas, what is in its trash, and what goes on. All but the last is read once and after each act, as every look is a session of the metadata engine. */
import type { Quota, Restored, Trashed, VolumeOperation, VolumeSnapshot } from '../control/volume-schemas.ts';
import { api, type PagedList, type Volume } from './api.ts';
import { h, replace } from './dom.ts';
import { bytes, count, moment } from './format.ts';
import { empty, section, table } from './parts.ts';

const GB = 1e9;
const OPERATIONS_MS = 3000;

interface Shown<T> {
  /** Of the volume, in the API. */
  readonly path: string;
  readonly items: readonly T[];
}

export function volumeTools(signal: AbortSignal): readonly HTMLElement[] {
  return [
    renewed((again) =>
      section({
        title: 'Snapshots',
        note: 'Of the whole volume, as metadata: no data is copied.',
        read: () => read<VolumeSnapshot>('snapshots', signal),
        render: (shown) => (shown === null ? noVolume() : renderSnapshots(shown, again)),
        signal,
      }),
    ),
    renewed((again) =>
      section({
        title: 'Quotas',
        note: 'Directories with a limit, and what is in use below them. / is the volume.',
        read: () => read<Quota>('quotas', signal),
        render: (shown) => (shown === null ? noVolume() : renderQuotas(shown, again)),
        signal,
      }),
    ),
    renewed((again) =>
      section({
        title: 'Trash',
        note: 'What was removed and can be brought back: the first 1,000.',
        read: () => read<Trashed>('trash', signal),
        render: (shown) => (shown === null ? noVolume() : renderTrash(shown, again)),
        signal,
      }),
    ),
    section({
      title: 'Work on the volume',
      note: 'What takes long goes on without this page: the last 20.',
      read: () => read<VolumeOperation>('operations', signal),
      render: (shown) => (shown === null ? noVolume() : renderOperations(shown)),
      signal,
      everyMs: OPERATIONS_MS,
    }),
  ];
}

/** null: there is no formatted volume, as for a tenant. */
async function read<T>(what: string, signal: AbortSignal): Promise<Shown<T> | null> {
  const volume = (await api<PagedList<Volume>>('/v1/volumes', { signal })).items.find(({ formatted }) => formatted);
  if (volume === undefined) return null;
  const path = `/v1/volumes/${encodeURIComponent(volume.name)}`;
  const { items } = await api<PagedList<T>>(`${path}/${what}?limit=1000`, { signal });
  return { path, items };
}

const noVolume = (): Node => empty('No volume here', 'penstock fs format makes one; tenants have none.');

/** `again` makes the section anew, which reads it. */
function renewed(make: (again: () => void) => HTMLElement): HTMLElement {
  const place = h('div', {});
  const again = (): void => replace(place, make(again));
  again();
  return place;
}

/** One act of a button: asked about, busy meanwhile, and what refused it stands below. */
function act(
  button: HTMLButtonElement,
  refused: HTMLElement,
  question: string | null,
  work: (onProgress: (text: string) => void) => Promise<void>,
): void {
  const run = async (): Promise<void> => {
    if (question !== null && !window.confirm(question)) return;
    const { textContent: title } = button;
    button.disabled = true;
    refused.hidden = true;
    try {
      await work((text) => (button.textContent = text));
    } catch (error) {
      refused.textContent = error instanceof Error ? error.message : String(error);
      refused.hidden = false;
    } finally {
      button.textContent = title;
      button.disabled = false;
    }
  };
  void run();
}

const refusal = (): HTMLElement => h('p', { class: 'stale', role: 'alert', hidden: true });

function actButton(title: string, label: string, onClick: (button: HTMLButtonElement) => void): HTMLButtonElement {
  const button = h('button', { type: 'button', 'aria-label': label }, title);
  button.addEventListener('click', () => onClick(button));
  return button;
}

function form(submit: HTMLButtonElement, onSubmit: () => void, ...fields: readonly HTMLElement[]): HTMLElement {
  const listener = (event: Event): void => {
    event.preventDefault();
    onSubmit();
  };
  return h('form', { class: 'acts', on: { submit: listener } }, fields, submit);
}

function renderSnapshots({ path, items }: Shown<VolumeSnapshot>, again: () => void): Node {
  const refused = refusal();
  const name = h('input', { 'aria-label': 'Name of the snapshot', placeholder: 'name', required: true });
  const make = h('button', { type: 'submit' }, 'Make a snapshot');
  const remove = (button: HTMLButtonElement, snapshot: string): void =>
    act(button, refused, `Nobody can read snapshot ${snapshot} any more then. Delete it?`, async (onProgress) => {
      await api(`${path}/snapshots/${encodeURIComponent(snapshot)}`, { method: 'DELETE', onProgress });
      again();
    });
  return h(
    'div',
    {},
    form(
      make,
      () =>
        act(make, refused, null, async (onProgress) => {
          await api(`${path}/snapshots`, { body: { name: name.value }, onProgress });
          again();
        }),
      name,
    ),
    refused,
    items.length === 0
      ? empty('No snapshot', 'One keeps all files as they are now.')
      : table(
          'Snapshots',
          [
            { title: 'Name', cell: (snapshot) => snapshot.name },
            { title: 'Path', cell: (snapshot) => h('code', {}, snapshot.path), wide: true },
            { title: 'Made', cell: ({ created }) => moment(Date.parse(created)) },
            {
              title: '',
              cell: (snapshot) =>
                actButton('Delete', `Delete snapshot ${snapshot.name}`, (button) => remove(button, snapshot.name)),
            },
          ],
          items,
        ),
  );
}

function renderQuotas({ path, items }: Shown<Quota>, again: () => void): Node {
  const refused = refusal();
  const directory = h('input', { 'aria-label': 'Directory', placeholder: '/models', required: true });
  const limit = h('input', {
    ...{ type: 'number', min: 0, step: 'any' },
    ...{ 'aria-label': 'Limit in GB; empty: none', placeholder: 'GB; empty: none' },
  });
  const set = h('button', { type: 'submit' }, 'Set the limit');
  const limitText = (value: number | null, text: (value: number) => string): string =>
    value === null ? 'none' : text(value);
  return h(
    'div',
    {},
    form(
      set,
      () =>
        act(set, refused, null, async (onProgress) => {
          const bytesMax = limit.value === '' ? null : Math.round(Number(limit.value) * GB);
          await api(`${path}/quotas`, { method: 'PUT', body: { path: directory.value, bytesMax }, onProgress });
          again();
        }),
      directory,
      limit,
    ),
    refused,
    items.length === 0
      ? empty('No quota', 'Every directory may fill the volume.')
      : table(
          'Quotas',
          [
            { title: 'Directory', cell: (quota) => h('code', {}, quota.path), wide: true },
            { title: 'In use', cell: (quota) => (quota.counting ? 'set it again' : bytes(quota.bytes)), number: true },
            { title: 'Limit', cell: ({ bytesMax }) => limitText(bytesMax, bytes), number: true },
            { title: 'Inodes', cell: ({ inodes }) => count(inodes), number: true },
            { title: 'Limit of inodes', cell: ({ inodesMax }) => limitText(inodesMax, count), number: true },
          ],
          items,
        ),
  );
}

function renderTrash({ path, items }: Shown<Trashed>, again: () => void): Node {
  if (items.length === 0)
    return empty('Nothing is in the trash', 'What is removed stays there for as long as the volume says.');
  const refused = refusal();
  const restore = (button: HTMLButtonElement, { id, path: at }: Trashed): void =>
    act(button, refused, `Bring back ${at ?? `inode ${id}`} with all that was below?`, async (onProgress) => {
      const body = { items: [String(id)] };
      const report = await api<Restored>(`${path}/trash/restore`, { body, onProgress });
      if (report.failed > 0) throw new Error(report.failures.join('; '));
      again();
    });
  return h(
    'div',
    {},
    refused,
    table(
      'Trash',
      [
        { title: 'Where it was', cell: (trashed) => h('code', {}, trashed.path ?? `inode ${trashed.id}`), wide: true },
        { title: 'Kind', cell: ({ kind }) => kind },
        { title: 'Size', cell: (trashed) => bytes(trashed.bytes), number: true },
        { title: 'Removed', cell: ({ removed }) => moment(Date.parse(removed)) },
        {
          title: '',
          cell: (trashed) =>
            actButton('Bring back', `Bring back ${trashed.path ?? `inode ${trashed.id}`}`, (button) =>
              restore(button, trashed),
            ),
        },
      ],
      items,
    ),
  );
}

function renderOperations({ path, items }: Shown<VolumeOperation>): Node {
  if (items.length === 0)
    return empty('Nothing was done yet', 'Copies, snapshots and what else takes time stand here.');
  const refused = refusal();
  const cancel = (button: HTMLButtonElement, { id, operation, target }: VolumeOperation): void =>
    act(button, refused, `Cancel ${operation} of ${target}?`, async () => {
      await api(`${path}/operations/${id}/cancel`, { method: 'POST' });
    });
  const shown = table(
    'Work on the volume',
    [
      { title: 'What', cell: ({ operation }) => operation },
      { title: 'On', cell: ({ target }) => h('code', {}, target), wide: true },
      { title: 'By', cell: ({ by }) => by },
      {
        title: 'State',
        cell: ({ state, error }) => (error === null ? state : `${state}: ${error.detail}`),
        wide: true,
      },
      {
        title: 'So far',
        cell: ({ progress }) => (progress === null ? '' : `${progress.phase} ${count(progress.done)}`),
      },
      { title: 'Begun', cell: ({ startedMs }) => moment(startedMs) },
      {
        title: '',
        cell: (operation) =>
          operation.state === 'waiting' || operation.state === 'running'
            ? actButton('Cancel', `Cancel ${operation.operation} of ${operation.target}`, (button) =>
                cancel(button, operation),
              )
            : '',
      },
    ],
    items.slice(0, 20),
  );
  return h('div', {}, refused, shown);
}
