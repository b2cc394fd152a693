/**
 * Where connections may lead (server-side request forgery): the server asks in somebody's name, from a network that is not theirs.
 *
 * Rules: nobody reaches link-local addresses, where clouds keep the credentials of machines. Somebody of a tenant reaches the hosts of `serve.connections.hosts` only;
 * the platform's people any other. Names are resolved and judged before the call. Limits: a name that resolves to another address a moment later is not noticed, so
 * list only names whose owner is trusted.
 */
import { lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';
import { PenstockError } from '../../lib/errors.ts';

const never = new BlockList();
never.addSubnet('169.254.0.0', 16, 'ipv4');
never.addSubnet('0.0.0.0', 8, 'ipv4');
never.addSubnet('fe80::', 10, 'ipv6');
never.addAddress('fd00:ec2::254', 'ipv6');
never.addAddress('::', 'ipv6');

export class HostRules {
  readonly #allowed: readonly string[];

  /** `allowed`: names, or `*.example.com`, for tenants. */
  constructor(allowed: readonly string[]) {
    this.#allowed = allowed.map((host) => host.toLowerCase());
  }

  /** Throws `denied`. Without asking the name service: servers name hosts in the middle of a call. */
  check(host: string, isTenants: boolean): void {
    const family = isIP(host);
    if (family !== 0 && never.check(host, family === 6 ? 'ipv6' : 'ipv4')) {
      throw new PenstockError('denied', `${host} is a link-local address: connections do not lead there`);
    }
    if (isTenants && !this.#isAllowed(host.toLowerCase())) {
      throw new PenstockError(
        'denied',
        `${host} is none of serve.connections.hosts, which say where tenants may connect to`,
      );
    }
  }

  /** The same, for what names resolve to as well. Throws `denied`, and `unavailable` for a name that there is not. */
  async checkAll(hosts: readonly string[], isTenants: boolean): Promise<void> {
    for (const host of hosts) {
      this.check(host, isTenants);
      if (isIP(host) !== 0) continue;
      const found = await lookup(host, { all: true }).catch((error: unknown) => {
        throw new PenstockError('unavailable', `there is no host ${host}`, { cause: error });
      });
      for (const { address } of found) this.check(address, false);
    }
  }

  #isAllowed(host: string): boolean {
    return this.#allowed.some((one) => (one.startsWith('*.') ? host.endsWith(one.slice(1)) : host === one));
  }
}
