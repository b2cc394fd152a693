/** The tenants: names that tokens carry and that the names of their things begin with. Who is of one sees that one. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';

const tenantSchema = z.object({ name: z.string(), datasets: z.int(), agents: z.int() });

export function tenantRoutes(app: App): void {
  app.get(
    '/v1/tenants',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'tenants.list',
        tags: ['tenants'],
        summary: 'The tenants of serve.tenants, with how much is theirs',
        querystring: z.object(pageQuery),
        response: {
          200: pageOf(tenantSchema).extend({
            all: z.boolean().meta({ description: 'whether who asks sees all tenants' }),
          }),
        },
      },
    },
    async ({ scope, query }) => {
      const { lake, fleet, tenants } = scope;
      const { ids } = await fleet.agents();
      const of = (tenant: string, names: readonly string[]): number =>
        names.filter((name) => name.startsWith(`${tenant}.`)).length;
      const items = tenants.map((name) => ({
        name,
        datasets: of(name, lake.datasetNames),
        agents: of(name, ids),
      }));
      return { ...paginate(items, ({ name }) => [name], ascending, query), all: scope.tenant === null };
    },
  );
}
