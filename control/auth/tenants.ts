/**
 * Tenants that never see each other. A tenant is a name of `serve.tenants`; what is called TENANT.anything is that tenant's (datasets, agents, groups, and all that
 * is kept by their names: tables, runs, costs, quarantine, lineage, forecasts), everything else is the platform's. Tokens and audit records carry the tenant of who made them.
 *
 * Invariants, for every route by construction and not by what its handler remembers:
 * - A handler has no other way to data than `request.scope` (scope/scope.ts), which holds what the tenant owns and nothing else.
 * - A name in the path that is not the tenant's is answered with 404 in front of the handler, as one that does not exist. Parameters called `id` are no
 *   names: the scope looks them up.
 * - Somebody of the platform is in the scope of everything, and with `?tenant=` in that of one tenant. Nobody else can leave the own one.
 */
import type { FastifyRequest } from 'fastify';
import { PenstockError } from '../../lib/errors.ts';
import type { Principal } from './guard.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Of what the request is about; null: of all, or nobody is known. */
    tenant: string | null;
  }
}

export class Tenants {
  readonly names: readonly string[];
  readonly #known: ReadonlySet<string>;

  constructor(names: readonly string[]) {
    this.#known = new Set(names);
    this.names = [...this.#known].sort();
  }

  has(tenant: string): boolean {
    return this.#known.has(tenant);
  }

  /** null: the platform's. */
  ownerOf(name: string): string | null {
    const dot = name.indexOf('.');
    const prefix = name.slice(0, Math.max(0, dot));
    return this.#known.has(prefix) ? prefix : null;
  }
}

/** The tenant whose things this request is about; null: those of all. Throws `not-found` for what is not the principal's, `usage`. */
export function tenantOfRequest(request: FastifyRequest, principal: Principal, tenants: Tenants): string | null {
  // Parsed, and not validated yet.
  const { tenant: asked } = request.query as { readonly tenant?: unknown };
  if (asked !== undefined && typeof asked !== 'string') throw new PenstockError('usage', 'tenant: expected it once');
  const isAllowed = asked === undefined || principal.tenant === null || asked === principal.tenant;
  if (asked !== undefined && (!isAllowed || !tenants.has(asked))) {
    throw new PenstockError('not-found', `there is no tenant ${asked.slice(0, 100)}`);
  }
  const tenant = principal.tenant ?? asked ?? null;
  if (tenant === null) return null;
  for (const [parameter, value] of Object.entries(request.params as Readonly<Record<string, string>>)) {
    if (parameter === 'id' || tenants.ownerOf(value) === tenant) continue;
    throw new PenstockError('not-found', `there is no ${parameter} ${value.slice(0, 100)}`);
  }
  return tenant;
}
