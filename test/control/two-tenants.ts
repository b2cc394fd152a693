/** Two tenants of one pipeline, each with one of everything. */
import { expect } from 'vitest';
import {
  recordOf,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  type TestPipeline,
  TestProducer,
} from '../compactor/pipeline.ts';
import type { Names } from './api-walk.ts';
import { type Answer, type Control, startControl } from './control.ts';

export const FIRST = 'first-administrator-token-0123456789';
/** Stands in everything that a tenant has, beside the tenant's name. */
export const MARKS = { 'team-a': 'alpha', 'team-b': 'bravo' } as const;
export type Tenant = keyof typeof MARKS;
export const TENANTS = ['team-a', 'team-b'] as const;
export const other = (tenant: Tenant): Tenant => (tenant === 'team-a' ? 'team-b' : 'team-a');

export interface Party {
  readonly tenant: Tenant;
  readonly mark: string;
  readonly token: string;
  /** Of what it has. */
  readonly names: Names;
}

const agentConfig = (mark: string): unknown => ({
  sources: [{ type: 'host', interval: '10s', to: `${mark}-topic` }],
});

export interface TwoTenants {
  readonly pipeline: TestPipeline;
  readonly control: Control;
  readonly parties: readonly Party[];
}

export async function openTwoTenants(): Promise<TwoTenants> {
  const dataset = (tenant: Tenant): string =>
    `name: ${tenant}.unit, topic: ${MARKS[tenant]}-topic, eventTime: ts, sort: [sensor]`;
  const pipeline = await openTestPipeline(
    ` }\n  - { ${dataset('team-a')} }\n  - { ${dataset('team-b')}`,
    'serve: { tenants: [team-a, team-b], connections: { hosts: [127.0.0.1] } }',
  );
  const producer = new TestProducer(pipeline.log);
  for (const tenant of TENANTS) {
    const mark = MARKS[tenant];
    await pipeline.log.ensureTopic(`${mark}-topic`, { partitions: 2, retentionMs: 7 * 86_400_000 });
    const good = recordOf({ seq: 1, value: { ts: HOUR_MS, sensor: `${mark}-1`, [`${mark}_field`]: 1 } });
    await producer.append(0, [good, recordOf({ seq: 2, value: `{"${mark}": oops` })], `${mark}-topic`);
  }
  await landOnce(pipeline);
  const control = await startControl(pipeline.config, pipeline.dir, FIRST);
  const parties = await Promise.all(TENANTS.map((tenant) => settle(control, tenant)));
  return { pipeline, control, parties };
}

/** Gives a tenant one of everything, partly by its own hand. */
async function settle(control: Control, tenant: Tenant): Promise<Party> {
  const mark = MARKS[tenant];
  const dataset = `${tenant}.unit`;
  const make = async (token: string, method: string, path: string, body?: unknown): Promise<Answer> => {
    const answer = await control.request(method, path, { token, ...(body === undefined ? {} : { body }) });
    expect(answer.status, `${method} ${path}: ${answer.text}`).toBeLessThan(300);
    return answer;
  };
  const made = await make(FIRST, 'POST', `/v1/tokens?tenant=${tenant}`, { name: `${mark} admin`, role: 'admin' });
  const token = String(made.json['token']);
  const spare = await make(token, 'POST', '/v1/tokens', { name: `${mark} viewer`, role: 'viewer' });
  await make(token, 'POST', `/v1/agents/${tenant}.edge/heartbeat`, { status: { note: mark } });
  await make(token, 'PUT', `/v1/agents/${tenant}.edge/config`, { config: agentConfig(mark) });
  await make(token, 'PUT', `/v1/agent-groups/${tenant}.group`);
  await make(token, 'PUT', `/v1/agent-groups/${tenant}.group/agents/${tenant}.in-group`);
  await make(token, 'PUT', `/v1/agent-groups/${tenant}.group/config`, { config: agentConfig(mark) });
  await make(token, 'POST', `/v1/agents/${tenant}.in-group/heartbeat`, { status: { note: mark } });
  await make(token, 'POST', `/v1/agent-groups/${tenant}.group/rollout`, { config: agentConfig(`${mark}-next`) });
  await make(token, 'POST', '/v1/lineage', { dataset, job: `${mark} job`, model: `${mark} model` });
  // One name for two models: they have nothing to do with each other.
  await make(token, 'POST', '/v1/lineage', { dataset, job: `${mark} job`, model: 'same name' });
  await make(token, 'POST', '/v1/connections', {
    name: `${tenant}.service`,
    address: 'redis://127.0.0.1:1/0',
    tags: { note: mark },
  });
  const quarantine = await control.get('/v1/quarantine', token);
  const objects = quarantine['items'] as readonly { readonly object: string }[];
  const sessions = (await control.get('/v1/sessions', FIRST))['items'] as readonly { readonly id: number }[];
  const names = {
    dataset,
    agent: `${tenant}.edge`,
    group: `${tenant}.group`,
    id: spare.json['id'],
    'sessions.end.id': sessions[0]?.id,
    connection: `${tenant}.service`,
    address: 'redis://127.0.0.1:1/0',
    tags: { note: mark },
    call: 'PING',
    model: `${mark} model`,
    object: objects[0]?.object,
    job: `${mark} job`,
    sql: `SELECT * FROM "${tenant}".unit`,
    who: `${mark} admin`,
    config: agentConfig(mark),
  };
  return { tenant, mark, token, names };
}
