/** The schema of the chart's values: what it refuses. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { CHART, template, THREE_URLS } from './helm.ts';

/** What of JSON Schema says which keys an object has. */
interface Closed {
  readonly additionalProperties?: unknown;
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Closed>>;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

describe.skipIf(missing('helm'))('the values of the chart', () => {
  it('are refused where it does not know them or they cannot work', async () => {
    const refused: [object, RegExp][] = [
      [{ compactr: {} }, /compactr/],
      [{ image: { tag: 'latest' } }, /tag/],
      [{ compactor: { terminationGracePeriodSeconds: 600 } }, /terminationGracePeriodSeconds/],
      [{ agent: { resources: { requests: {}, limits: { memory: null } } } }, /limits/],
      [{ csi: { storageClass: { parameters: { blokSize: '1MiB' } } } }, /blokSize/],
      [{ datasets: [] }, /datasets/],
      [{ compactor: { node: { spot: 'perhaps' } } }, /spot/],
    ];
    for (const [values, message] of refused) {
      const path = join(tempDir('chart'), 'values.yaml');
      writeFileSync(path, stringify(values));
      await expect(template([...THREE_URLS, '-f', path]), message.source).rejects.toThrow(message);
    }
    await expect(template([...THREE_URLS, '--set', 'log=http://kafka'])).rejects.toThrow(/log/);
    await expect(template([...THREE_URLS, '--set', 'store=gs://lake'])).rejects.toThrow(/store/);
  });

  it('are refused where they lack what it has a default for, as those of an older chart (--reuse-values)', async () => {
    const lacking: string[] = [];
    const walk = (path: string, values: Readonly<Record<string, unknown>>, schema: Closed): void => {
      for (const [key, value] of Object.entries(values)) {
        if (schema.additionalProperties !== false || schema.properties === undefined) continue;
        if (schema.required?.includes(key) !== true) lacking.push(`${path}${key}`);
        const inner = schema.properties[key];
        if (isObject(value) && inner !== undefined) walk(`${path}${key}.`, value, inner);
      }
    };
    const schema = JSON.parse(readFileSync(join(CHART, 'values.schema.json'), 'utf8')) as Closed;
    walk('', parse(readFileSync(join(CHART, 'values.yaml'), 'utf8')) as Readonly<Record<string, unknown>>, schema);
    expect(lacking).toEqual([]);
    for (const key of ['credentials', 'monitoring.traces', 'csi.mounts.hostPID', 'agent.port']) {
      const name = key.replace(/.*\./, '');
      await expect(template([...THREE_URLS, '--set', `${key}=null`])).rejects.toThrow(`missing property '${name}'`);
    }
  });
});
