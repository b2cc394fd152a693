/** Connections as one tenant (or the platform) may see and use them. */
import { PenstockError } from '../../lib/errors.ts';
import type { DriverInfo } from '../../lib/registry.ts';
import type { Principal } from '../auth/guard.ts';
import type { ConnectionForm, ConnectionRecord, Precondition } from '../connect/records.ts';
import type { Target, TestResult } from '../connect/vendor-calls.ts';
import type { ControlContext } from '../context.ts';

/** Who changes a connection. People of the platform may connect to any host. */
type Changer = Pick<Principal, 'name' | 'tenant'>;

export class ConnectionScope {
  readonly #context: ControlContext;
  readonly #owns: (name: string) => boolean;
  readonly #tenant: string | null;

  constructor(context: ControlContext, tenant: string | null) {
    this.#context = context;
    this.#tenant = tenant;
    this.#owns = (name) => tenant === null || context.tenants.ownerOf(name) === tenant;
  }

  drivers(): Promise<readonly DriverInfo[]> {
    return this.#context.vendorCalls.drivers();
  }

  /** By name. */
  async list(): Promise<ReadonlyMap<string, ConnectionRecord>> {
    return new Map([...(await this.#context.connectionRecords.list())].filter(([name]) => this.#owns(name)));
  }

  async get(name: string): Promise<ConnectionRecord> {
    this.#assertOwn(name);
    return this.#context.connectionRecords.get(name);
  }

  /** Throws `usage` for a name that is not the tenant's, a URL or credentials that cannot be; `denied` for a host; `exists`. */
  async create(id: string, name: string, form: ConnectionForm, by: Changer): Promise<ConnectionRecord> {
    if (!this.#owns(name)) {
      throw new PenstockError(
        'usage',
        `name: expected ${this.#tenant ?? ''}.NAME, as all that is the tenant's is called`,
      );
    }
    await this.#check(form, by);
    return this.#context.connectionRecords.create(name, form, { ...this.#changer(by), id });
  }

  async replace(name: string, form: ConnectionForm, by: Changer, precondition: Precondition): Promise<void> {
    this.#assertOwn(name);
    await this.#check(form, by);
    await this.#context.connectionRecords.change(name, form, this.#changer(by), precondition);
  }

  async delete(name: string, by: Changer, precondition: Precondition): Promise<void> {
    this.#assertOwn(name);
    await this.#context.connectionRecords.change(name, null, this.#changer(by), precondition);
  }

  reseal(): Promise<number> {
    return this.#context.connectionRecords.reseal(this.#owns);
  }

  async test(name: string): Promise<TestResult> {
    const record = await this.get(name);
    return this.#context.vendorCalls.test(() => this.#target(name, record));
  }

  async isChange(name: string, call: string): Promise<boolean> {
    return this.#context.vendorCalls.isChange((await this.get(name)).url, call);
  }

  async call(name: string, call: string, parameters: unknown): Promise<unknown> {
    return this.#context.vendorCalls.call(this.#target(name, await this.get(name)), call, parameters);
  }

  #target(name: string, record: ConnectionRecord): Target {
    const credentials = this.#context.connectionRecords.credentialsOf(name, record);
    return { url: record.url, credentials, isTenants: record.byTenant, party: this.#tenant };
  }

  async #check({ url, credentials }: ConnectionForm, by: Changer): Promise<void> {
    const target = { url, credentials: credentials ?? {}, isTenants: by.tenant !== null, party: this.#tenant };
    await this.#context.vendorCalls.check(target, credentials !== undefined);
  }

  #changer({ name, tenant }: Changer): { readonly name: string; readonly byTenant: boolean; readonly nowMs: number } {
    return { name, byTenant: tenant !== null, nowMs: this.#context.clock.nowMs() };
  }

  #assertOwn(name: string): void {
    if (!this.#owns(name)) throw new PenstockError('not-found', `there is no connection ${name}`);
  }
}
