/** Agents and their groups: who runs with what, who refused it and why, and the roll-outs, which are steered here. */
import { api, type Agent, type AgentGroup, type PagedList, type Rollout } from './api.ts';
import { h } from './dom.ts';
import { count, moment } from './format.ts';
import { empty, facts, pages, section, table, type View } from './parts.ts';

const EVERY_MS = 2000;
const AGENTS_EVERY_MS = 5000;
const PAGE = 100;
/** The newest of a roll-out's history; the API has all. */
const EVENTS_SHOWN = 6;

interface Group extends AgentGroup {
  readonly last: Rollout | null;
}

export const agents: View = {
  show(root, signal) {
    root.append(
      section({
        title: 'Groups and roll-outs',
        note: 'A group runs with one configuration. A roll-out brings another one step by step, and stops when the updated agents do worse.',
        read: () => readGroups(signal),
        render: (groups) =>
          groups.length === 0
            ? empty('No group', 'penstock ctl agent-groups create NAME, then add agents and configure it.')
            : h('div', { class: 'groups' }, groups.map(renderGroup)),
        everyMs: EVERY_MS,
        signal,
      }),
      section({
        title: 'Agents',
        read: () => api<PagedList<Agent>>(`/v1/agents?limit=${PAGE}`, { signal }),
        render: (first) =>
          first.items.length === 0
            ? empty('No agent has reported', '`control: { url: … }` in agent.yaml makes an agent report here.')
            : pages(first, 'More agents', agentTable, (cursor) =>
                api<PagedList<Agent>>(`/v1/agents?limit=${PAGE}&cursor=${cursor}`, { signal }),
              ),
        everyMs: AGENTS_EVERY_MS,
        signal,
      }),
    );
  },
};

async function readGroups(signal: AbortSignal): Promise<readonly Group[]> {
  const { items } = await api<PagedList<AgentGroup>>('/v1/agent-groups', { signal });
  return Promise.all(
    items.map(async (group) => ({
      ...group,
      last: group.rollout === null ? null : await api<Rollout>(`${pathOf(group)}/rollout`, { signal }),
    })),
  );
}

const pathOf = ({ name }: AgentGroup): string => `/v1/agent-groups/${encodeURIComponent(name)}`;

function renderGroup(group: Group): HTMLElement {
  const { name, current, last } = group;
  return h(
    'article',
    { class: 'group', 'aria-label': `Group ${name}` },
    h('h3', {}, name),
    facts([
      ['Agents', count(group.agents)],
      [
        'Configuration',
        current === null
          ? 'none: each runs with its agent.yaml'
          : h('span', {}, h('code', {}, current.version), ` by ${current.changedBy}, ${moment(current.changedMs)}`),
      ],
    ]),
    last === null ? null : renderRollout(group, last),
  );
}

const LEVELS: Readonly<Record<Rollout['state'], string>> = {
  running: 'tag',
  stopped: 'tag warn',
  done: 'tag good',
  aborted: 'tag',
  'rolled-back': 'tag',
};

function renderRollout(group: Group, rollout: Rollout): HTMLElement {
  const { state, health, reason, step, steps, to, events } = rollout;
  const isUnderWay = state === 'running' || state === 'stopped';
  return h(
    'div',
    { class: 'rollout' },
    h(
      'p',
      {},
      'Roll-out of ',
      h('code', {}, to.version),
      ': ',
      h('span', { class: LEVELS[state] }, state),
      isUnderWay ? `, step ${step + 1} of ${steps.length}` : '',
    ),
    state === 'stopped' && reason !== null ? h('p', { class: 'stale', role: 'alert' }, reason) : null,
    health === null ? null : renderHealth(health),
    h(
      'ol',
      { class: 'events' },
      events
        .slice(-EVENTS_SHOWN)
        .reverse()
        .map(({ atMs, text }) => h('li', {}, h('time', {}, moment(atMs)), ` ${text}`)),
    ),
    renderActs(group, state),
  );
}

function renderHealth(health: NonNullable<Rollout['health']>): HTMLElement {
  const failing = health.refused + health.gone + health.troubled;
  const parts = [
    [health.well, 'well'],
    [health.settling, 'settling'],
    [health.waiting, 'waiting'],
    [health.refused, 'refused it'],
    [health.gone, 'fell silent'],
    [health.troubled, 'report a problem'],
    [health.away, 'away'],
  ] as const;
  const text = parts.flatMap(([number, what]) => (number === 0 ? [] : [`${count(number)} ${what}`])).join(', ');
  return h(
    'div',
    {},
    h('meter', {
      min: 0,
      max: Math.max(1, health.updated),
      value: health.well,
      'aria-label': `${health.well} of ${health.updated} updated agents are well`,
    }),
    h('p', { class: failing > 0 ? 'stale' : 'quiet' }, `Of ${count(health.updated)} updated agents: ${text}.`),
  );
}

const ACTS: Readonly<
  Record<Rollout['state'], readonly (readonly [act: string, title: string, question: string | null])[]>
> = {
  running: [
    ['stop', 'Stop', null],
    ['abort', 'Abort', 'All agents of the group go back to the configuration before. Abort?'],
  ],
  stopped: [
    ['resume', 'Resume', 'What fails at present is taken as it is. Resume?'],
    ['abort', 'Abort', 'All agents of the group go back to the configuration before. Abort?'],
  ],
  done: [['roll-back', 'Roll back', 'All agents of the group go back to the configuration before. Roll back?']],
  aborted: [],
  'rolled-back': [],
};

function renderActs(group: Group, state: Rollout['state']): HTMLElement | null {
  const refused = h('p', { class: 'stale', role: 'alert', hidden: true });
  const acts = ACTS[state].map(([act, title, question]) => {
    const button = h('button', { type: 'button', id: `${act} ${group.name}` }, title);
    const send = async (): Promise<void> => {
      if (question !== null && !window.confirm(question)) return;
      button.disabled = true;
      try {
        // The section shows what came of it at its next look.
        await api(`${pathOf(group)}/rollout/${act}`, { method: 'POST' });
      } catch (error) {
        refused.textContent = error instanceof Error ? error.message : String(error);
        refused.hidden = false;
        button.disabled = false;
      }
    };
    button.addEventListener('click', () => void send());
    return button;
  });
  return acts.length === 0 ? null : h('div', {}, h('p', { class: 'acts' }, acts), refused);
}

function agentTable(items: readonly Agent[]): HTMLElement {
  return table(
    'Agents',
    [
      { title: 'Agent', cell: ({ id }) => id },
      {
        title: 'State',
        cell: ({ late }) => h('span', { class: late ? 'tag warn' : 'tag' }, late ? 'late' : 'reports'),
      },
      { title: 'Group', cell: ({ group }) => group ?? '–' },
      { title: 'Runs with', cell: said(configState) },
      { title: 'Readings', cell: ({ status }) => count(status.readings ?? 0), number: true },
      { title: 'Rules', cell: said(rulesOf), wide: true },
      { title: 'Problem', cell: said(problemOf), wide: true },
      { title: 'Last seen', cell: ({ seenMs }) => moment(seenMs) },
      { title: 'Address', cell: ({ address }) => address },
    ],
    items,
  );
}

/** An agent says what it likes: what is not as it should be costs its own cell, and not the list of all. */
const said =
  (cell: (agent: Agent) => Node | string) =>
  (agent: Agent): Node | string => {
    try {
      return cell(agent);
    } catch {
      return '?';
    }
  };

function configState({ status, wanted }: Agent): Node | string {
  const version = status.config?.version ?? null;
  if (version === null && wanted === 'none') return 'its agent.yaml';
  const name = version === null ? 'its agent.yaml' : h('code', {}, version.slice(0, 8));
  if (version === wanted) return name;
  return h(
    'span',
    {},
    name,
    ' ',
    h('span', { class: 'tag warn' }, wanted === 'none' ? 'not wanted' : `not ${wanted.slice(0, 8)}`),
  );
}

/** Where rules act at present, and how often they did. */
function rulesOf({ status }: Agent): Node | string {
  const acted = (status.rules ?? []).filter(({ active, times }) => active || times > 0);
  if (acted.length === 0) return '–';
  return h(
    'span',
    {},
    acted.flatMap(({ when, active, times }) => [
      h('span', { class: active ? 'tag warn' : 'tag' }, `${when}${active ? '' : ' (over)'}`),
      ` ${count(times)} ×`,
    ]),
  );
}

function problemOf({ status }: Agent): string {
  const sources = (status.sources ?? []).flatMap(({ name, problem }) =>
    problem === null ? [] : [`${name}: ${problem}`],
  );
  const topics = (status.uplink?.heldUp ?? []).map(({ topic, problem }) => `${topic}: ${problem}`);
  const refused = status.config?.refused ?? null;
  return [
    ...(refused === null ? [] : [`refused: ${refused.reason}`]),
    ...sources,
    ...topics,
    status.uplinkProblem ?? '',
  ]
    .filter((text) => text !== '')
    .join('; ');
}
