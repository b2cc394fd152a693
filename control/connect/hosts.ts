/**
 * Where connections may lead (server-side request forgery): the server asks in somebody's name, from a network that is not theirs.
 *
 * Rules: nobody reaches link-local addresses and the others where clouds keep the credentials of machines. Somebody of a tenant reaches the hosts of
 * `serve.connections.hosts` only; the platform's people any other. Names are resolved and judged before the call, and those that a server names in the middle of it
 * by `lookup`, at the socket. Limits: a name of a URL that resolves to another address a moment later is not noticed, so list only names whose owner is trusted.
 */
import { lookup } from 'node:dns/promises';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { PenstockError } from '../../lib/errors.ts';

const never = new BlockList();
never.addSubnet('169.254.0.0', 16, 'ipv4');
never.addSubnet('0.0.0.0', 8, 'ipv4');
never.addSubnet('fe80::', 10, 'ipv6');
never.addAddress('::', 'ipv6');
// The same IPv4 addresses through NAT64 and 6to4. Those that are mapped (::ffff:a.b.c.d) are compared as IPv4 by BlockList itself.
never.addSubnet('64:ff9b::a9fe:0', 112, 'ipv6');
never.addSubnet('2002:a9fe::', 32, 'ipv6');
// Metadata that is not link-local: Alibaba's, Oracle's and Azure's; AWS' and Google's by IPv6.
for (const address of ['100.100.100.200', '192.0.0.192', '168.63.129.16']) never.addAddress(address, 'ipv4');
for (const address of ['fd00:ec2::254', 'fd20:ce::254']) never.addAddress(address, 'ipv6');

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
      throw new PenstockError(
        'denied',
        `${host} is a link-local address, or one of a cloud's metadata: connections do not lead there`,
      );
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

  /** As `dns.lookup`, for sockets; fails with `denied` when any of the addresses is one that nobody reaches. */
  readonly lookup: LookupFunction = (host, options, callback) => {
    lookup(host, { ...options, all: true })
      .then((found) => {
        for (const { address } of found) this.check(address, false);
        return found;
      })
      .then(
        (found) => {
          if (options.all === true) callback(null, found);
          else callback(null, found[0]?.address ?? '', found[0]?.family);
        },
        (error: unknown) => callback(error instanceof Error ? error : new Error(String(error)), ''),
      );
  };

  #isAllowed(host: string): boolean {
    return this.#allowed.some((one) => (one.startsWith('*.') ? host.endsWith(one.slice(1)) : host === one));
  }
}
