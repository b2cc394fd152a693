/** What /openapi.json says beyond the schemas of the routes: who may call an operation, and what every failure looks like. */
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger';
import { jsonSchemaTransform } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { problemSchema } from './problem.ts';

const FAILURE = { $ref: '#/components/responses/Problem' };

/** Of what goes on without its request. */
const LOCATION = {
  description: 'where to see how far it is, and what came of it',
  required: true,
  schema: { type: 'string', format: 'uri-reference' },
} as const;

/** Of every operation; taken in front of the routes, by auth/tenants.ts. */
const TENANT = {
  name: 'tenant',
  in: 'query',
  required: false,
  schema: { type: 'string' },
  description: 'as if somebody of this tenant asked; the default is the own one, and all for the platform',
} as const;

export function openApiOptions(version: string): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Penstock', version, description: 'Agents, lake and volumes of one pipeline' },
      components: {
        securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } },
        responses: {
          Problem: {
            description: 'RFC 9457 problem document',
            content: { 'application/problem+json': { schema: problemJsonSchema() } },
          },
        },
      },
      security: [{ bearer: [] }],
    },
    transform: (route) => {
      const { schema, url } = jsonSchemaTransform(route);
      const { access, columns } = route.route.config ?? {};
      // The rule stands in the document as well, where a person looks for it.
      const rule = access === 'public' ? { security: [] } : { description: `Role: ${access ?? 'none'}` };
      return { schema: { ...schema, ...rule, ...(columns !== undefined && { 'x-columns': columns }) }, url };
    },
    transformObject: (document) => {
      const openapi = 'openapiObject' in document ? document.openapiObject : {};
      for (const methods of Object.values(openapi.paths ?? {})) {
        for (const operation of Object.values(methods ?? {})) {
          if (typeof operation !== 'object' || !('responses' in operation)) continue;
          const { 202: begun } = operation.responses;
          if (begun !== undefined && 'description' in begun) begun.headers = { ...begun.headers, Location: LOCATION };
          operation.responses = { ...operation.responses, default: FAILURE };
          const isPublic = operation.security?.length === 0;
          if (!isPublic) operation.parameters = [...(operation.parameters ?? []), TENANT];
        }
      }
      return openapi;
    },
  };
}

function problemJsonSchema(): Record<string, unknown> {
  // The dialect is that of the whole document.
  return Object.fromEntries(Object.entries(z.toJSONSchema(problemSchema)).filter(([key]) => key !== '$schema'));
}
