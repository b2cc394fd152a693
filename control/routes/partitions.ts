/** Who lands which partitions of a dataset, and what waits in each. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';

const partitionSchema = z.object({
  partition: z.int(),
  earliest: z.number().meta({ description: 'the first offset that the log still has' }),
  end: z.number().meta({ description: 'the next offset to come' }),
  landed: z.number().meta({ description: 'the first offset that has not landed' }),
  unlanded: z.number(),
  lander: z.object({ id: z.string(), host: z.string(), pid: z.int() }).nullable().meta({
    description: 'who lands it; null: nobody now. One that was killed is named until another lander has missed it',
  }),
});

export function partitionRoutes(app: App): void {
  app.get(
    '/v1/datasets/:dataset/partitions',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'datasets.partitions',
        tags: ['datasets'],
        summary: 'The partitions of its topic: how far each has landed, and which lander lands it',
        params: z.object({ dataset: z.string().max(200) }),
        querystring: z.object(pageQuery),
        response: { 200: pageOf(partitionSchema) },
      },
    },
    async (request) => {
      const states = await request.scope.lake.partitions(request.params.dataset);
      const key = ({ partition }: { readonly partition: number }): string[] => [String(partition).padStart(6, '0')];
      return paginate(states, key, ascending, request.query);
    },
  );
}
