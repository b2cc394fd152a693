/**
 * What one request may see and change: everything for the platform, and of a tenant what it owns. This is all that routes have.
 *
 * Invariants: nothing that a method gives or does is about a name, a token or a record of another tenant; totals are sums of what is owned. The volume of the
 * pipeline, its sessions and the states of its ports are the platform's: a tenant is told whether the ports answer, for its figures hang on them.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { SessionInfo } from '../../lib/meta/engine.ts';
import { isOpen } from '../auth/guard.ts';
import type { TokenRecord } from '../auth/tokens.ts';
import type { PortHealth } from '../connections.ts';
import type { ControlContext } from '../context.ts';
import type { AuditRecord } from '../lake/audit.ts';
import { readMounts, type ReportingMount } from '../lake/mounts.ts';
import { describeVolume, readLocks, type LockOfFile, type VolumeState } from '../lake/volume.ts';
import type { VolumeOperations } from '../volume-operations.ts';
import { ConnectionScope } from './connection-scope.ts';
import { FleetScope } from './fleet-scope.ts';
import { LakeScope } from './lake-scope.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** On public routes that of nobody: it throws. */
    readonly scope: Scope;
  }
}

export class Scope {
  readonly tenant: string | null;
  readonly lake: LakeScope;
  readonly fleet: FleetScope;
  readonly connections: ConnectionScope;
  readonly #context: ControlContext;

  constructor(context: ControlContext, tenant: string | null) {
    this.#context = context;
    this.tenant = tenant;
    this.lake = new LakeScope(context, tenant);
    this.fleet = new FleetScope(context, tenant);
    this.connections = new ConnectionScope(context, tenant);
  }

  get nowMs(): number {
    return this.#context.clock.nowMs();
  }

  /** Fires when the server ends. */
  get ending(): AbortSignal {
    return this.#context.ending;
  }

  get volumeName(): string {
    return this.tenant === null ? this.#context.connections.volume : this.tenant;
  }

  get ports(): readonly PortHealth[] {
    const { health } = this.#context.connections;
    return this.tenant === null ? health : health.map((port) => ({ ...port, url: '' }));
  }

  /** The tenants that can be seen. */
  get tenants(): readonly string[] {
    return this.tenant === null ? this.#context.tenants.names : [this.tenant];
  }

  async volumes(): Promise<VolumeState[]> {
    const { engine, volume } = this.#context.connections;
    return this.tenant === null ? [await describeVolume(engine, volume)] : [];
  }

  /** Throws `not-found` where `volume` is not that of the pipeline or not to be seen. */
  volume(volume: string): VolumeOperations {
    this.#assertVolume(volume);
    // Throws at once while it is known to be down: a tool would try for long.
    const { engine } = this.#context.connections;
    engine.lost.throwIfAborted();
    return this.#context.volumeOperations;
  }

  /** Throws `not-found`. */
  async locks(volume: string): Promise<LockOfFile[]> {
    this.#assertVolume(volume);
    return readLocks(this.#context.connections.engine, volume);
  }

  #assertVolume(volume: string): void {
    if (this.tenant !== null || volume !== this.#context.connections.volume) {
      throw new PenstockError('not-found', `there is no volume ${volume}`);
    }
  }

  async mounts(): Promise<ReportingMount[]> {
    const { engine, volume } = this.#context.connections;
    return this.tenant === null ? readMounts(engine, volume) : [];
  }

  async sessions(): Promise<readonly SessionInfo[]> {
    return this.tenant === null ? this.#context.connections.engine.sessions() : [];
  }

  /** Those that are alive, by kind. */
  async sessionCounts(): Promise<Readonly<Record<string, number>>> {
    return this.tenant === null ? this.#context.sessionCounts() : {};
  }

  /** Throws `not-found`, and `usage` for that of the server itself. */
  async endSession(id: number): Promise<void> {
    const { engine } = this.#context.connections;
    const sessions = await this.sessions();
    if (!sessions.some((session) => session.id === id)) {
      throw new PenstockError('not-found', `there is no session ${id}`);
    }
    if (id === engine.sessionId) throw new PenstockError('usage', 'this is the session of the server itself');
    await engine.endSession(id);
    this.#context.sessions.forget();
  }

  async tokens(): Promise<TokenRecord[]> {
    return (await this.#context.tokens.list()).filter((record) => this.#sees(record));
  }

  /** A token of this scope's tenant. Throws `conflict` for a first one that is not the platform's administrator's. */
  async createToken(
    token: Omit<TokenRecord, 'tenant' | 'createdMs' | 'expiresMs'> & { readonly lifeSeconds: number | undefined },
  ): Promise<{ readonly token: string; readonly record: TokenRecord }> {
    const { lifeSeconds, ...rest } = token;
    if ((token.role !== 'admin' || this.tenant !== null) && (await isOpen(this.#context))) {
      throw new PenstockError(
        'conflict',
        'the first token must be of role admin and of no tenant, or nobody could make another',
        { retryable: false },
      );
    }
    const expiresMs = lifeSeconds === undefined ? null : this.nowMs + lifeSeconds * 1000;
    return this.#context.tokens.create({ ...rest, tenant: this.tenant, expiresMs });
  }

  async revokeToken(id: string): Promise<void> {
    await this.#context.tokens.revoke(id, (record) => this.#sees(record));
  }

  /** What people of the tenant did, newest first. */
  async audited(sinceMs: number): Promise<AuditRecord[]> {
    const { engine, volume } = this.#context.connections;
    return (await this.#context.audit.list(engine, volume, sinceMs)).filter((record) => this.#sees(record));
  }

  #sees(record: { readonly tenant: string | null }): boolean {
    return this.tenant === null || record.tenant === this.tenant;
  }
}

/** A scope is made once: its tenant's datasets stay as they are configured. */
export class Scopes {
  readonly #context: ControlContext;
  readonly #made = new Map<string | null, Scope>();

  constructor(context: ControlContext) {
    this.#context = context;
  }

  /** `tenant` is one that is configured, so there are no more of them than of these. */
  of(tenant: string | null): Scope {
    const known = this.#made.get(tenant);
    if (known !== undefined) return known;
    const scope = new Scope(this.#context, tenant);
    this.#made.set(tenant, scope);
    return scope;
  }
}
