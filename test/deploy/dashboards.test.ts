/** The Grafana dashboards: of the shape that Grafana imports without a word, and with expressions that Prometheus takes. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { z } from 'zod';
import { run } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { CHART } from './helm.ts';

const FOLDER = join(CHART, 'dashboards');
const COLUMNS = 24;

/** What is declared is all there is: Grafana drops keys that it does not know without a word. */
const place = {
  id: z.number().int().positive(),
  title: z.string().min(1),
  gridPos: z.strictObject({
    ...{ x: z.number().int().min(0), y: z.number().int().min(0) },
    ...{ w: z.number().int().min(1).max(COLUMNS), h: z.number().int().min(1) },
  }),
};
const seriesSchema = z.strictObject({
  ...place,
  type: z.literal('timeseries'),
  // Whoever imports it chooses.
  datasource: z.strictObject({ type: z.literal('prometheus'), uid: z.literal('${datasource}') }),
  fieldConfig: z.strictObject({
    defaults: z.strictObject({ unit: z.enum(['short', 'bytes', 'Bps', 's', 'percentunit']) }),
    overrides: z.tuple([]),
  }),
  options: z.strictObject({
    legend: z.strictObject({
      ...{ displayMode: z.enum(['list', 'table']), placement: z.enum(['bottom', 'right']), showLegend: z.boolean() },
    }),
    tooltip: z.strictObject({ mode: z.enum(['single', 'multi']) }),
  }),
  targets: z
    .array(
      z.strictObject({ refId: z.string().regex(/^[A-Z]$/), expr: z.string().min(1), legendFormat: z.string().min(1) }),
    )
    .min(1),
});
const textSchema = z.strictObject({
  ...place,
  type: z.literal('text'),
  options: z.strictObject({ mode: z.literal('markdown'), content: z.string().min(1) }),
});
const panelSchema = z.discriminatedUnion('type', [seriesSchema, textSchema]);

const dashboardSchema = z.strictObject({
  uid: z.string().regex(/^[a-zA-Z0-9_-]{1,40}$/),
  title: z.string().min(1),
  tags: z.array(z.string()),
  // Grafana 11 reads this one; newer ones migrate it.
  schemaVersion: z.literal(39),
  version: z.number().int(),
  editable: z.boolean(),
  refresh: z.string(),
  time: z.strictObject({ from: z.string(), to: z.string() }),
  templating: z.strictObject({
    list: z.array(z.looseObject({ name: z.string(), type: z.enum(['datasource', 'query', 'custom']) })),
  }),
  annotations: z.strictObject({ list: z.array(z.looseObject({})) }),
  panels: z.array(panelSchema).min(1),
});

describe.each(readdirSync(FOLDER))('the dashboard %s', (name) => {
  const read = (): z.infer<typeof dashboardSchema> =>
    dashboardSchema.parse(JSON.parse(readFileSync(join(FOLDER, name), 'utf8')));

  it('is one that Grafana imports, with panels that do not lie on each other', () => {
    const { uid, panels, templating } = read();
    expect(`${uid}.json`).toBe(name);
    expect(templating.list.map((variable) => variable.name)).toContain('datasource');
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    const taken = new Map<string, string>();
    for (const { title, gridPos, ...panel } of panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(COLUMNS);
      const ids = 'targets' in panel ? panel.targets.map(({ refId }) => refId) : [];
      expect(new Set(ids).size, title).toBe(ids.length);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.get(`${x} ${y}`), `${title} at ${x}, ${y}`).toBeUndefined();
          taken.set(`${x} ${y}`, title);
        }
      }
    }
  });

  it.skipIf(missing('promtool'))('asks what Prometheus understands', async () => {
    const expressions = read().panels.flatMap((panel) =>
      panel.type === 'timeseries' ? panel.targets.map(({ expr }) => expr) : [],
    );
    const path = join(tempDir('dashboards'), 'rules.yaml');
    const rules = expressions.map((expr, index) => ({ record: `panel:${index}`, expr }));
    writeFileSync(path, stringify({ groups: [{ name: 'panels', rules }] }));
    const { stdout, stderr } = await run(requireService('promtool'), ['check', 'rules', path]);
    expect(`${stdout}${stderr}`).toContain(`SUCCESS: ${expressions.length} rules found`);
  });
});
