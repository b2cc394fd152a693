/** Requests to every operation of an OpenAPI document, made from its schemas: a route that is added is walked without a line here. */
import type { Answer, Control } from './control.ts';

interface Schema {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly anyOf?: readonly Schema[];
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
}

interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required?: boolean;
  readonly schema: Schema;
}

export interface Operation {
  readonly operationId: string;
  readonly method: string;
  readonly path: string;
  readonly isPublic: boolean;
  readonly parameters: readonly Parameter[];
  readonly body: Schema | null;
}

/** Values for parameters and fields, by name or by operation and name, as far as a schema cannot know them. */
export type Names = Readonly<Record<string, unknown>>;

interface RawOperation {
  readonly operationId: string;
  readonly security?: readonly unknown[];
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
}

export async function operationsOf(control: Control): Promise<Operation[]> {
  const document = await control.get('/openapi.json');
  // The server's own document, whose form test/control/api.test.ts checks.
  const paths = document['paths'] as Readonly<Record<string, Readonly<Record<string, RawOperation>>>>;
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      operationId: operation.operationId,
      method: method.toUpperCase(),
      path,
      isPublic: operation.security?.length === 0,
      parameters: operation.parameters ?? [],
      body: operation.requestBody?.content['application/json']?.schema ?? null,
    })),
  );
}

export interface WalkedRequest {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** `optional`: also the parameters that need not be given, where `names` has a value. */
export function requestOf(operation: Operation, names: Names, optional: boolean): WalkedRequest {
  const { method, operationId, parameters, body } = operation;
  const query = new URLSearchParams();
  let { path } = operation;
  for (const { name, in: place, required, schema } of parameters) {
    const value = String(names[`${operationId}.${name}`] ?? names[name] ?? exampleOf(schema, name, names));
    if (place === 'path') path = path.replace(`{${name}}`, encodeURIComponent(value));
    else if (place === 'query' && (required === true || (optional && names[name] !== undefined)))
      query.set(name, value);
  }
  const url = query.size === 0 ? path : `${path}?${query.toString()}`;
  return { method, path: url, ...(body === null ? {} : { body: exampleOf(body, '', names) }) };
}

export function send(control: Control, { method, path, body }: WalkedRequest, token: string): Promise<Answer> {
  return control.request(method, path, { token, ...(body === undefined ? {} : { body }) });
}

function exampleOf(schema: Schema, name: string, names: Names): unknown {
  if (name !== '' && names[name] !== undefined) return names[name];
  if (schema.const !== undefined) return schema.const;
  if (schema.enum !== undefined) return schema.enum[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.anyOf?.[0] !== undefined) return exampleOf(schema.anyOf[0], name, names);
  switch (schema.type) {
    case 'object': {
      const wanted = Object.entries(schema.properties ?? {}).filter(
        ([key]) => schema.required?.includes(key) === true || names[key] !== undefined,
      );
      return Object.fromEntries(wanted.map(([key, field]) => [key, exampleOf(field, key, names)]));
    }
    case 'array':
      return [];
    case 'integer':
    case 'number':
      return schema.minimum ?? 1;
    case 'boolean':
      return true;
    default:
      return 'x';
  }
}
