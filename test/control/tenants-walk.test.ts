/** Tenants never see each other: every operation of the API, walked with the tokens of two. */
import { expect, test } from 'vitest';
import { type Operation, operationsOf, requestOf, send } from './api-walk.ts';
import type { Answer, Control } from './control.ts';
import { MARKS, openTwoTenants, other, type Party } from './two-tenants.ts';

const isOfName = ({ parameters }: Operation): boolean =>
  parameters.some((parameter) => parameter.in === 'path' && parameter.name !== 'id');

/** What a tenant can read of its own, by operation, as far as it stands still. */
async function readAll(control: Control, operations: readonly Operation[], party: Party) {
  const texts: Record<string, string> = {};
  for (const operation of operations) {
    if (operation.method !== 'GET' || /^(overview|metrics|rollouts|agent-groups)\./.test(operation.operationId))
      continue;
    const answer = await send(control, requestOf(operation, party.names, true), party.token);
    texts[operation.operationId] = `${answer.status} ${answer.text.replace(/"late":\w+/g, '')}`;
  }
  return texts;
}

async function walked() {
  const { control, parties } = await openTwoTenants();
  const operations = (await operationsOf(control)).filter(({ isPublic }) => !isPublic);
  expect(operations.length).toBeGreaterThan(40);
  return { control, parties, operations };
}

test('no operation shows or changes anything of another tenant that is asked for by name', async () => {
  const { control, parties, operations } = await walked();
  for (const party of parties) {
    const foreign = parties.find(({ tenant }) => tenant === other(party.tenant)) ?? party;
    const before = await readAll(control, operations, foreign);
    for (const operation of operations) {
      const what = `${party.tenant} ${operation.operationId}`;
      // By the other's names: as if there were nothing.
      const asked = await send(control, requestOf(operation, foreign.names, true), party.token);
      // Who asks for a name learns no more of it than that.
      expect(asked.text.replaceAll(JSON.stringify(foreign.names['model']), ''), what).not.toMatch(
        new RegExp(`${foreign.mark}(_|-| admin| viewer| job)`),
      );
      if (operation.parameters.some(({ in: place }) => place === 'path')) {
        expect([what, asked.status]).toEqual([what, 404]);
      }
      const absent = {
        connection: `${foreign.tenant}.no`,
        dataset: `${foreign.tenant}.no`,
        agent: `${foreign.tenant}.no`,
        group: `${foreign.tenant}.no`,
      };
      if (isOfName(operation)) {
        const missing = await send(control, requestOf(operation, { ...foreign.names, ...absent }, true), party.token);
        const plain = (answer: Answer): string => answer.text.replaceAll(/team-[ab]\.[\w-]+/g, 'NAME');
        expect([what, plain(missing)]).toEqual([what, plain(asked)]);
      }
      // In the other's name.
      const posing = requestOf(operation, { ...party.names, tenant: foreign.tenant }, true);
      const refused = await send(control, posing, party.token);
      expect([what, refused.status]).toEqual([what, 404]);
      expect([what, refused.text.includes(foreign.mark)]).toEqual([what, false]);
    }
    expect(await readAll(control, operations, foreign), `of ${foreign.tenant}`).toEqual(before);
  }
});

test('no operation shows anything of another tenant by itself, in lists, sums or errors', async () => {
  const { control, parties, operations } = await walked();
  const shown = new Set<string>();
  for (const party of parties) {
    const foreign = other(party.tenant);
    const inOrder = [...operations].sort((a, b) => Number(a.method === 'DELETE') - Number(b.method === 'DELETE'));
    for (const operation of inOrder) {
      for (const optional of [false, true]) {
        const answer = await send(control, requestOf(operation, party.names, optional), party.token);
        const what = `${party.tenant} ${operation.operationId}`;
        // 502: the service that it connects to is not there.
        expect([what, answer.status, answer.status < 500 || answer.status === 502]).toEqual([
          what,
          answer.status,
          true,
        ]);
        for (const mark of [MARKS[foreign], foreign]) {
          expect([what, mark, answer.text.includes(mark)]).toEqual([what, mark, false]);
        }
        if (answer.text.includes(party.mark) || answer.text.includes(party.tenant)) shown.add(operation.operationId);
      }
    }
  }
  // The walk would find nothing in empty answers.
  expect([...shown].sort()).toEqual(
    expect.arrayContaining([
      'agent-groups.agents',
      'agent-groups.config',
      'agent-groups.list',
      'agents.config',
      'agents.list',
      'audit.list',
      'connections.get',
      'connections.list',
      'costs.get',
      'datasets.get',
      'datasets.list',
      'forecasts.list',
      'lineage.list',
      'metrics.get',
      'overview.get',
      'quarantine.list',
      'quarantine.records',
      'runs.list',
      'sql.query',
      'tables.files',
      'tables.get',
      'tenants.list',
      'tokens.list',
    ]),
  );
});
