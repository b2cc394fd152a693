/** The frame of the page: navigation, what is down, the token, and the view that the address names. */
import { api, ApiError, setToken, showTenant, shownTenant, TENANTS_PATH, type Overview, type Tenants } from './api.ts';
import { h, replace } from './dom.ts';
import { duration, timeOfDay } from './format.ts';
import { every, NEEDS_TOKEN, type View } from './parts.ts';
import { agents } from './view-agents.ts';
import { connections } from './view-connections.ts';
import { datasets } from './view-datasets.ts';
import { forecasts } from './view-forecasts.ts';
import { lineage } from './view-lineage.ts';
import { overview } from './view-overview.ts';
import { quarantine } from './view-quarantine.ts';
import { runs } from './view-runs.ts';
import { sql } from './view-sql.ts';
import { volumes } from './view-volumes.ts';

const VIEWS: readonly (readonly [name: string, title: string, view: (argument: string | undefined) => View])[] = [
  ['pipeline', 'Pipeline', () => overview],
  ['agents', 'Agents', () => agents],
  ['datasets', 'Datasets', datasets],
  ['runs', 'Runs and cost', () => runs],
  ['forecasts', 'Forecasts', () => forecasts],
  ['lineage', 'Lineage', () => lineage],
  ['quarantine', 'Quarantine', quarantine],
  ['volumes', 'Volumes', () => volumes],
  ['connections', 'Connections', () => connections],
  ['sql', 'SQL', () => sql],
];
const HEALTH_EVERY_MS = 3000;
/** Two samples missed, and a slow one. */
const STALE_SECONDS = 8;

const main = h('main', { id: 'content', tabindex: -1 });
const links = VIEWS.map(([name, title]) => h('a', { href: `#/${name}` }, title));
const notice = h('div', { class: 'notice', role: 'status', hidden: true });
let current = new AbortController();

function route(): void {
  const [name = '', argument] = location.hash.slice(2).split('/');
  const index = Math.max(
    0,
    VIEWS.findIndex(([candidate]) => candidate === name),
  );
  const [, title, view] = VIEWS[index] ?? VIEWS[0] ?? ['', '', () => overview];
  current.abort();
  current = new AbortController();
  links.forEach((link, at) =>
    at === index ? link.setAttribute('aria-current', 'page') : link.removeAttribute('aria-current'),
  );
  // On a phone the links are wider than the screen.
  links[index]?.scrollIntoView({ block: 'nearest', inline: 'center' });
  document.title = `${title} · Penstock`;
  replace(main);
  view(argument === undefined ? undefined : decodeURIComponent(argument)).show(main, current.signal);
  window.scrollTo(0, 0);
}

/** Says what is down and how old the figures are; nothing when all is well. */
async function checkHealth(): Promise<void> {
  try {
    const state = await api<Overview>('/v1/overview');
    const down = state.ports
      .filter(({ ok }) => !ok)
      .map(({ name, sinceMs, problem }) => `The ${name} is down since ${timeOfDay(sinceMs)} (${problem ?? ''}).`);
    const age = state.atMs === null ? null : (state.nowMs - state.atMs) / 1000;
    if (age !== null && age > STALE_SECONDS) down.push(`The figures are ${duration(age)} old.`);
    say(down.join(' '));
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) askToken();
    else say(error instanceof Error ? `${error.message} Trying again.` : String(error));
  }
}

/** The views ask for the tenant that was chosen, so it must be one that there is. */
function start(): void {
  void listTenants()
    .catch(() => undefined) // it is said by whatever else is asked
    .then(route);
  void checkHealth();
}

function say(text: string): void {
  notice.textContent = text;
  notice.hidden = text === '';
}

const tokenBox = h('input', { id: 'token', type: 'password', autocomplete: 'current-password', required: true });
const tokenDialog = h(
  'dialog',
  { 'aria-labelledby': 'token-title' },
  h(
    'form',
    {
      method: 'dialog',
      on: {
        submit: () => {
          setToken(tokenBox.value);
          tokenBox.value = '';
          start();
        },
      },
    },
    h('h2', { id: 'token-title' }, 'A token is needed'),
    h(
      'p',
      {},
      'Ask an administrator for one: penstock ctl tokens create --name NAME --role viewer. It is kept for this tab only.',
    ),
    h('label', { for: 'token' }, 'Token'),
    tokenBox,
    h('button', { type: 'submit', class: 'primary' }, 'Open'),
  ),
);

const tenantBox = h('select', {
  id: 'tenant',
  on: {
    change: () => {
      showTenant(tenantBox.value);
      route();
    },
  },
});
const tenantLabel = h('label', { class: 'tenant', for: 'tenant', hidden: true }, 'Tenant ', tenantBox);

/** Whoever sees several tenants may look at one; whoever is of one sees which. */
async function listTenants(): Promise<void> {
  const { items, all } = await api<Tenants>(TENANTS_PATH);
  const names = items.map(({ name }) => name);
  const options = names.map((name) => h('option', { value: name }, name));
  replace(tenantBox, all ? h('option', { value: '' }, 'All') : null, ...options);
  if (!names.includes(shownTenant())) showTenant('');
  tenantBox.value = shownTenant() === '' && !all ? (names[0] ?? '') : shownTenant();
  tenantBox.disabled = !all;
  tenantLabel.hidden = names.length === 0;
}

function askToken(): void {
  if (!tokenDialog.open) tokenDialog.showModal();
}

function skipToContent(event: Event): void {
  event.preventDefault();
  main.focus();
}

document.body.append(
  h('a', { class: 'skip', href: '#content', on: { click: skipToContent } }, 'Skip to the content'),
  h(
    'header',
    {},
    h('a', { class: 'brand', href: '#/pipeline' }, 'Penstock'),
    h('nav', { 'aria-label': 'Views' }, links),
    tenantLabel,
  ),
  notice,
  main,
  h(
    'footer',
    {},
    h('a', { href: '/docs/' }, 'API'),
    h('a', { href: '/openapi.json' }, 'OpenAPI'),
    h('a', { href: '/metrics' }, 'Metrics'),
  ),
  tokenDialog,
);
window.addEventListener('hashchange', route);
window.addEventListener(NEEDS_TOKEN, askToken);
start();
every(HEALTH_EVERY_MS, new AbortController().signal, checkHealth);
