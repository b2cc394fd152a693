/**
 * What a driver offers beyond its port: the vendor's own calls, by name. For people who run things, not for programs: those use the ports.
 *
 * Invariants: a call is one of a table, its parameters are checked by its schema, and it reaches what the URL names and nothing else. Credentials are given
 * beside the URL and never taken from the process's environment.
 */
import type { LookupFunction } from 'node:net';
import { z } from 'zod';
import { describeIssue, ISSUES } from './config/issues.ts';
import { PenstockError } from './errors.ts';

export interface VendorCall<C> {
  readonly summary: string;
  /** Whether it changes anything. */
  readonly changes: boolean;
  readonly parameters: z.ZodType<Readonly<Record<string, unknown>>>;
  run(client: C, parameters: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown>;
}

export interface VendorOptions {
  readonly credentials: Readonly<Record<string, string>>;
  /** Throws `denied` for a host that may not be connected to: servers name others. */
  readonly checkHost: (host: string) => void;
  /** For every socket: refuses names and addresses that may not be connected to, at the moment when it connects. An address is no name: `checkHost`. */
  readonly lookup: LookupFunction;
  /** Of one answer. */
  readonly bytesMax: number;
}

export interface Vendor {
  readonly calls: readonly (Pick<VendorCall<never>, 'summary' | 'changes'> & {
    readonly name: string;
    /** JSON Schema. */
    readonly parameters: Readonly<Record<string, unknown>>;
  })[];
  /** The names that credentials may have; `*` behind one that is needed. */
  readonly credentials: readonly string[];
  /** Hosts that the URL leads to. Throws `config` for a URL that is wrong or names files of this machine. */
  hosts(url: URL): readonly string[];
  /** One cheap call that shows that all is well. Throws what is wrong. */
  probe(url: URL, options: VendorOptions, signal: AbortSignal): Promise<void>;
  /** What the vendor answers. Throws `not-found` for a call that there is not, `usage` for its parameters, and what went wrong. */
  call(url: URL, name: string, parameters: unknown, options: VendorOptions, signal: AbortSignal): Promise<unknown>;
}

/** The calls of one client; `open` gives it to `use` and closes it. */
export function vendorOf<C>(vendor: {
  readonly calls: Readonly<Record<string, VendorCall<C>>>;
  readonly credentials: readonly string[];
  readonly hosts: Vendor['hosts'];
  readonly probe: (client: C, signal: AbortSignal) => Promise<unknown>;
  readonly open: (
    url: URL,
    options: VendorOptions,
    signal: AbortSignal,
    use: (client: C) => Promise<unknown>,
  ) => Promise<unknown>;
}): Vendor {
  const { calls, credentials, hosts, probe, open } = vendor;
  return {
    calls: Object.entries(calls).map(([name, { summary, changes, parameters }]) => ({
      name,
      summary,
      changes,
      parameters: Object.fromEntries(
        Object.entries(z.toJSONSchema(parameters, { io: 'input' })).filter(([key]) => key !== '$schema'),
      ),
    })),
    credentials,
    hosts,
    probe: async (url, options, signal) => {
      await open(url, options, signal, (client) => probe(client, signal));
    },
    call: async (url, name, given, options, signal) => {
      const call = Object.hasOwn(calls, name) ? calls[name] : undefined;
      if (call === undefined) {
        throw new PenstockError('usage', `there is no call ${name}: expected one of ${Object.keys(calls).join(', ')}`);
      }
      const parsed = call.parameters.safeParse(given, ISSUES);
      if (!parsed.success) {
        const problems = parsed.error.issues.flatMap(describeIssue);
        const flaws = problems.map(({ key, message }) => `${key === '' ? 'parameters' : key}: ${message}`);
        throw new PenstockError('usage', `${name}: ${flaws.join('; ')}`);
      }
      return open(url, options, signal, (client) => call.run(client, parsed.data, signal));
    },
  };
}
