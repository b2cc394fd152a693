/**
 * Who asks, and whether they may: one hook in front of every route. A route says who may call it in `config.access`; one that says
 * nothing is not registered (assertAccess).
 *
 * Rules, each with a test in test/control/auth.test.ts:
 * - `public`: anybody.
 * - viewer < operator < admin: the higher may do what the lower may. `agent` stands apart: an agent's token does nothing else, and speaks for its agent only
 *   (routes/agent-parts.ts). `viewer-or-agent`: both.
 * - A bearer token is one of ours (tokens.ts) or, where `serve.oidc` is configured, a JWT of the issuer (oidc.ts).
 * - Without any token and without an issuer, this machine is served as an administrator, and nobody else: the peer's address and the Host header are loopback
 *   (a page of another site that resolves its name to 127.0.0.1 carries its own name there), nothing was forwarded by a proxy, and a
 *   browser says that the request comes from our own page.
 * - Whoever is of a tenant that is not configured may do nothing. What somebody of a tenant sees of a route is for tenants.ts.
 * - Failed attempts are counted by address, see server.ts.
 */
import type { FastifyRequest } from 'fastify';
import type { Oidc } from './oidc.ts';
import type { Tenants } from './tenants.ts';
import type { Role, Tokens } from './tokens.ts';

export type Access = 'public' | Role | 'viewer-or-agent';

export interface Principal {
  readonly name: string;
  /** `none`: known, and without a role that may do anything. */
  readonly role: Role | 'none';
  /** null: of the platform. */
  readonly tenant: string | null;
}

/** Who is known here. */
export interface Authority {
  readonly tokens: Tokens;
  readonly oidc: Oidc | null;
  readonly tenants: Tenants;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly access?: Access;
    /** What of a list's items `penstock ctl` shows: heading -> path, as `status.readings`. Default: all of it. */
    readonly columns?: Readonly<Record<string, string>>;
  }
  interface FastifyRequest {
    /** null on public routes only. */
    principal: Principal | null;
  }
}

const RANK: Readonly<Record<Role | 'none', number>> = { none: -1, agent: 0, viewer: 1, operator: 2, admin: 3 };
const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+)$/;
const LOOPBACK_HOST = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i;
const LOCAL: Principal = { name: 'local', role: 'admin', tenant: null };

export type Decision =
  { readonly principal: Principal | null } | { readonly status: 401 | 403; readonly reason: string };

export async function decide(request: FastifyRequest, access: Access, authority: Authority): Promise<Decision> {
  if (access === 'public') return { principal: null };
  const principal = await identify(request, authority);
  if (principal === null) {
    return { status: 401, reason: 'send Authorization: Bearer TOKEN with a token that is known and not expired' };
  }
  if (principal.tenant !== null && !authority.tenants.has(principal.tenant)) {
    return { status: 403, reason: `there is no tenant ${principal.tenant}: serve.tenants does not name it` };
  }
  if (mayUse(principal.role, access)) return { principal };
  return { status: 403, reason: `the role ${principal.role} may not do this: it needs ${access}` };
}

function mayUse(role: Principal['role'], access: Exclude<Access, 'public'>): boolean {
  if (role === 'agent') return access === 'agent' || access === 'viewer-or-agent';
  if (access === 'viewer-or-agent') return mayUse(role, 'viewer');
  return RANK[role] >= RANK[access === 'agent' ? 'operator' : access];
}

async function identify(request: FastifyRequest, authority: Authority): Promise<Principal | null> {
  const token = /^Bearer ([!-~]+)$/i.exec(request.headers.authorization ?? '')?.[1];
  if (token !== undefined) {
    const isJwt = /^[\w-]+\.[\w-]+\.[\w-]*$/.test(token);
    return isJwt && authority.oidc !== null ? authority.oidc.find(token) : authority.tokens.find(token);
  }
  if (request.headers.authorization !== undefined) return null;
  return isLocal(request) && (await isOpen(authority)) ? LOCAL : null;
}

/** Whether nobody can be known: then this machine is served. */
export async function isOpen({ tokens, oidc }: Pick<Authority, 'tokens' | 'oidc'>): Promise<boolean> {
  return oidc === null && !(await tokens.any());
}

function isLocal(request: FastifyRequest): boolean {
  const { headers, raw } = request;
  const site = headers['sec-fetch-site'];
  return (
    LOOPBACK.test(raw.socket.remoteAddress ?? '') &&
    LOOPBACK_HOST.test(headers.host ?? '') &&
    headers.forwarded === undefined &&
    headers['x-forwarded-for'] === undefined &&
    (site === undefined || site === 'same-origin' || site === 'none')
  );
}
