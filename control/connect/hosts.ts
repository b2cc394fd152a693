/**
 * Where connections may lead (server-side request forgery): the server asks in somebody's name, from a network that is not theirs.
 *
 * Rules: nobody reaches link-local addresses and the others where clouds keep the credentials of machines. Somebody of a tenant reaches the hosts of
 * `serve.connections.hosts` only, and not this machine through a name that leads to it; the platform's people any other.
 * Invariants: every socket resolves its host by `lookupOf`, which judges the name and every address that it has at that moment; the socket connects to one of these and
 * asks no name service again. So neither a name that changes its addresses nor a host that a server names in the middle of a call leads elsewhere.
 */
import type { LookupAddress, LookupAllOptions, LookupOptions } from 'node:dns';
import { lookup } from 'node:dns/promises';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { PenstockError } from '../../lib/errors.ts';

const never = new BlockList();
never.addSubnet('fe80::', 10, 'ipv6');
never.addAddress('::', 'ipv6');
/** AWS' and Google's metadata. */
for (const address of ['fd00:ec2::254', 'fd20:ce::254']) never.addAddress(address, 'ipv6');
/** Link-local, this host, and the metadata of Alibaba, Oracle and Azure, which are not link-local. */
const NEVER_IPV4 = ['169.254.0.0/16', '0.0.0.0/8', '100.100.100.200/32', '192.0.0.192/32', '168.63.129.16/32'];
for (const subnet of NEVER_IPV4) {
  const [address = '', bits = ''] = subnet.split('/');
  never.addSubnet(address, Number(bits), 'ipv4');
  const [a = 0, b = 0, c = 0, d = 0] = address.split('.').map(Number);
  const groups = [a * 256 + b, c * 256 + d].map((group) => group.toString(16)).join(':');
  // The same through NAT64 and 6to4. Those that are mapped (::ffff:a.b.c.d) are compared as IPv4 by BlockList itself.
  never.addSubnet(`64:ff9b::${groups}`, 96 + Number(bits), 'ipv6');
  never.addSubnet(`2002:${groups}::`, 16 + Number(bits), 'ipv6');
}

const thisMachine = new BlockList();
thisMachine.addSubnet('127.0.0.0', 8, 'ipv4');
thisMachine.addAddress('::1', 'ipv6');

/** Of an address; a zone behind it (`%eth0`) is not the address. */
function isIn(list: BlockList, host: string): boolean {
  const address = host.replace(/%.*$/s, '');
  const family = isIP(address);
  return family !== 0 && list.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

export class HostRules {
  readonly #allowed: readonly string[];
  readonly #mayBeThisMachine: boolean;
  readonly #lookup: (host: string, options: LookupAllOptions) => Promise<LookupAddress[]>;

  /** `allowed`: names, or `*.example.com`, for tenants. */
  constructor(
    allowed: readonly string[],
    resolve: (host: string, options: LookupAllOptions) => Promise<LookupAddress[]> = lookup,
  ) {
    this.#lookup = resolve;
    this.#allowed = allowed.map((host) => host.toLowerCase());
    this.#mayBeThisMachine = this.#allowed.some((host) => host === 'localhost' || isIn(thisMachine, host));
  }

  /** Throws `denied`. Without asking the name service: servers name hosts in the middle of a call. */
  check(host: string, isTenants: boolean): void {
    if (isIn(never, host)) {
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

  /**
   * As `dns.lookup`, for sockets. Fails with `denied` for a name that may not be connected to, and when any of its addresses is one that
   * may not; with `unavailable` for a name that there is not.
   */
  lookupOf(isTenants: boolean): LookupFunction {
    return (host, options, callback) => {
      this.#resolve(host, options, isTenants).then(
        (found) => {
          if (options.all === true) callback(null, found);
          else callback(null, found[0]?.address ?? '', found[0]?.family);
        },
        (error: unknown) => callback(error instanceof Error ? error : new Error(String(error)), ''),
      );
    };
  }

  async #resolve(host: string, options: LookupOptions, isTenants: boolean): Promise<LookupAddress[]> {
    this.check(host, isTenants);
    const found = await this.#lookup(host, { ...options, all: true }).catch((error: unknown) => {
      throw new PenstockError('unavailable', `there is no host ${host}`, { cause: error });
    });
    for (const { address } of found) {
      this.check(address, false);
      if (isTenants && isIn(thisMachine, address) && !this.#mayBeThisMachine) {
        throw new PenstockError(
          'denied',
          `${host} leads to this machine, and serve.connections.hosts does not name it`,
        );
      }
    }
    return found;
  }

  #isAllowed(host: string): boolean {
    return this.#allowed.some((one) => (one.startsWith('*.') ? host.endsWith(one.slice(1)) : host === one));
  }
}
