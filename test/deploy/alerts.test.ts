/** The alert rules of the chart: when those fire that say that something tells nothing, and that each has its place in the runbook. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { run } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { CHART, manifests, MATRIX, template, THREE_URLS, type Manifest } from './helm.ts';

const RUNBOOK = join(CHART, '..', '..', '..', 'docs', 'RUNBOOK.md');

interface Rule {
  readonly alert: string;
  readonly annotations: Readonly<Record<string, string>>;
}

interface Groups {
  readonly groups: readonly { readonly name: string; readonly rules: readonly Rule[] }[];
}

async function render(values: object): Promise<Manifest[]> {
  const path = join(tempDir('alerts'), 'values.yaml');
  writeFileSync(path, stringify({ ...values, monitoring: { enabled: true } }));
  return manifests(await template([...THREE_URLS, '-f', path]));
}

function rulesOf(rendered: readonly Manifest[]): Groups {
  return rendered.find(({ kind }) => kind === 'PrometheusRule')?.spec as unknown as Groups; // as the Prometheus operator has it
}

/** The jobs that Prometheus makes of the monitors. */
function jobsOf(rendered: readonly Manifest[]): string[] {
  return rendered.flatMap(({ kind, metadata }) =>
    kind === 'PodMonitor'
      ? [`penstock/${metadata.name}`]
      : kind === 'ServiceMonitor'
        ? [`${metadata.name}-metrics`]
        : [],
  );
}

/** promtool's unit tests: which of these alerts fire after some minutes of these series, which are 0 where they have no values of their own. */
async function expectFiring(
  rules: Groups,
  series: readonly (string | readonly [name: string, values: string])[],
  expected: Readonly<Record<string, number>>,
  minutes = 15,
): Promise<void> {
  const folder = tempDir('promtool');
  writeFileSync(join(folder, 'rules.yaml'), stringify(rules));
  const test = {
    rule_files: ['rules.yaml'],
    tests: [
      {
        interval: '1m',
        input_series: series.map((one) => {
          const [name, values] = typeof one === 'string' ? [one, '0x20'] : one;
          return { series: name, values };
        }),
        promql_expr_test: Object.entries(expected).map(([alert, count]) => ({
          expr: `count(ALERTS{alertname="${alert}", alertstate="firing"}) or vector(0)`,
          eval_time: `${minutes}m`,
          exp_samples: [{ labels: '{}', value: count }],
        })),
      },
    ],
  };
  writeFileSync(join(folder, 'test.yaml'), stringify(test));
  const { status, stdout, stderr } = await run(requireService('promtool'), [
    'test',
    'rules',
    join(folder, 'test.yaml'),
  ]);
  expect(`${stdout}${stderr}`).toContain('SUCCESS');
  expect(status).toBe(0);
}

describe.skipIf(missing('helm', 'promtool'))('the alerts', () => {
  it('are rules that Prometheus takes', async () => {
    const checked = await run(requireService('promtool'), ['check', 'rules', join(CHART, 'files', 'rules.yaml')]);
    expect(`${checked.stdout}${checked.stderr}`).toContain('SUCCESS');
  });

  it('are those of the runbook, and the runbook has no others', async () => {
    const rules = rulesOf(await render({})).groups.flatMap((group) => group.rules);
    const alerts = rules.map(({ alert }) => alert).sort();
    expect(alerts.length).toBeGreaterThan(15);
    const headings = [...readFileSync(RUNBOOK, 'utf8').matchAll(/^### (Penstock\w+)$/gm)].map(([, name = '']) => name);
    expect(headings.sort()).toEqual(alerts);
    for (const { alert, annotations } of rules) {
      expect(annotations['runbook'], alert).toBe(`docs/RUNBOOK.md#${alert.toLowerCase()}`);
    }
  });

  it('fire for each program that is not scraped, and for a lake that nobody tells of', async () => {
    const rendered = await render(MATRIX['everything'] ?? {});
    const jobs = jobsOf(rendered);
    expect(jobs).toHaveLength(5);
    const down = jobs.map((job) => `up{job="${job}",instance="${job}"}`);
    const others = ['up{job="node-exporter"}', 'up{job="monitoring/penstock-notes"}'];
    const rules = rulesOf(rendered);
    await expectFiring(rules, [...down, ...others], { PenstockTargetDown: 5, PenstockControlAbsent: 1 });
    await expectFiring(rules, ['penstock_sample_age_seconds'], { PenstockTargetDown: 0, PenstockControlAbsent: 0 });
  });

  it('fire for agents that stay late, and for none that came back', async () => {
    const rules = rulesOf(await render({}));
    const late = 'penstock_agents{late="true"}';
    const others: [string, string] = ['penstock_agents{late="false"}', '10x20'];
    await expectFiring(rules, [[late, '2x20'], others], { PenstockAgentsLate: 1 });
    await expectFiring(rules, [[late, '2x13 0x7'], others], { PenstockAgentsLate: 0 });
    await expectFiring(rules, [[late, '0x20'], others], { PenstockAgentsLate: 0 });
  });

  it('fire for files that an agent has set aside, also at its start, with which its counter begins', async () => {
    const rules = rulesOf(await render({}));
    const aside = 'penstock_agent_set_aside_total';
    await expectFiring(rules, [[aside, '1x20']], { PenstockFilesSetAside: 1 });
    await expectFiring(rules, [[aside, '0x5 1x15']], { PenstockFilesSetAside: 1 });
    await expectFiring(rules, [[aside, '0x20']], { PenstockFilesSetAside: 0 });
    // As many as at the start before, which the counter does not show; what the agent wrote begins anew.
    const written = 'penstock_agent_disk_written_bytes_total';
    const writtenByTwo: [string, string] = [written, '1000+10x69 5+10x10'];
    await expectFiring(rules, [[aside, '1x80'], writtenByTwo], { PenstockFilesSetAside: 1 }, 75);
    await expectFiring(rules, [[aside, '0x80'], writtenByTwo], { PenstockFilesSetAside: 0 }, 75);
    await expectFiring(rules, [[aside, '1x80']], { PenstockFilesSetAside: 0 }, 75);
  });

  it('fire for connections that are refused, and not for those that once were', async () => {
    const rules = rulesOf(await render({}));
    const refused = 'penstock_control_connections_refused_total';
    await expectFiring(rules, [[refused, '0+1x20']], { PenstockConnectionsRefused: 1 });
    await expectFiring(rules, [[refused, '7x20']], { PenstockConnectionsRefused: 0 });
  });

  it('ask for no control plane where there is none', async () => {
    const rules = rulesOf(await render({ control: { enabled: false } }));
    expect(rules.groups.map(({ name }) => name)).toEqual(['penstock-agent', 'penstock-programs', 'penstock-volumes']);
    await expectFiring(rules, [], { PenstockControlAbsent: 0 });
  });
});
