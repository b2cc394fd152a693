/**
 * Tests of connections and vendors' calls through them.
 *
 * Invariants: what comes back, answers and errors alike, never holds a value of the credentials. Limits: TIME_MS a call, ANSWER_BYTES_MAX an answer,
 * RUNNING_MAX calls at a time, half of them of one tenant.
 */
import { describeError, isCode, PenstockError, type ErrorCode } from '../../lib/errors.ts';
import { describeDrivers, type DriverInfo } from '../../lib/registry.ts';
import { parsePortUrl, shownInError } from '../../lib/urls.ts';
import type { Vendor, VendorOptions } from '../../lib/vendor.ts';
import { HttpProblem } from '../problem.ts';
import { type Party, Shares } from '../share.ts';
import type { HostRules } from './hosts.ts';
import type { Credentials } from './records.ts';

const TIME_MS = 15_000;
const ANSWER_BYTES_MAX = 1_000_000;
const RUNNING_MAX = 8;
/** A shorter value stands in many texts by chance, and guards nothing. */
const SECRET_CHARS_MIN = 4;

export interface Target {
  readonly url: string;
  readonly credentials: Credentials;
  /** Whether a tenant's people ask. */
  readonly isTenants: boolean;
  /** Who asks now. */
  readonly party: Party;
}

export interface TestResult {
  readonly ok: boolean;
  readonly seconds: number;
  readonly problem: string | null;
  readonly remedy: string | null;
}

export class VendorCalls {
  readonly #hosts: HostRules;
  #drivers: Promise<DriverInfo[]> | undefined;
  readonly #running: Shares;

  /** `parties`: how many tenants may ask, with the platform. */
  constructor(hosts: HostRules, parties = 1) {
    this.#hosts = hosts;
    this.#running = new Shares({ total: RUNNING_MAX, parties });
  }

  drivers(): Promise<readonly DriverInfo[]> {
    return (this.#drivers ??= describeDrivers());
  }

  /** Throws `usage` for a URL or credentials that cannot be, `denied` for a host. */
  async check({ url: text, credentials, isTenants }: Target, isComplete: boolean): Promise<DriverInfo> {
    const { url, driver, vendor } = await this.#find(text);
    const names = vendor.credentials.map((name) => name.replace('*', ''));
    const unknown = Object.keys(credentials).find((name) => !names.includes(name));
    const missing = vendor.credentials.find((name) => name.endsWith('*') && !(name.slice(0, -1) in credentials));
    if (unknown !== undefined || (isComplete && missing !== undefined)) {
      throw new PenstockError(
        'usage',
        `credentials: expected ${vendor.credentials.join(', ')} (* needed), there ${unknown === undefined ? `is no ${missing?.slice(0, -1) ?? ''}` : 'is another one'}`,
      );
    }
    if (url.username !== '' || url.password !== '') {
      throw new PenstockError(
        'usage',
        'address: no user and password in it, please: they are credentials, which are sealed',
      );
    }
    for (const host of hostsOf(vendor, url)) this.#hosts.check(host, isTenants);
    return driver;
  }

  /** `target` may throw what is wrong with the credentials: that is a result, too. */
  async test(target: () => Target): Promise<TestResult> {
    const startedMs = performance.now();
    const seconds = (): number => Math.round(performance.now() - startedMs) / 1000;
    try {
      await this.#run(target(), (vendor, url, options, signal) => vendor.probe(url, options, signal));
      return { ok: true, seconds: seconds(), problem: null, remedy: null };
    } catch (error) {
      if (!(error instanceof PenstockError)) throw error;
      return { ok: false, seconds: seconds(), problem: describeError(error), remedy: REMEDIES[error.code] ?? null };
    }
  }

  /** Whether it changes anything. Throws `usage` for a call that there is not. */
  async isChange(url: string, name: string): Promise<boolean> {
    const { vendor } = await this.#find(url);
    const call = vendor.calls.find((one) => one.name === name);
    if (call === undefined) {
      throw new PenstockError(
        'usage',
        `there is no call ${name}: expected one of ${vendor.calls.map((one) => one.name).join(', ')}`,
      );
    }
    return call.changes;
  }

  /** What the vendor answers, as JSON. Throws 502 for what went wrong there. */
  async call(target: Target, name: string, parameters: unknown): Promise<unknown> {
    const answer = await this.#run(target, (vendor, url, options, signal) =>
      vendor.call(url, name, parameters, options, signal),
    ).catch((error: unknown) => {
      if (isCode(error, 'usage', 'too-large', 'timeout') || !(error instanceof PenstockError)) throw error;
      // A 403 or 404 would be about this server.
      throw new HttpProblem(502, 'vendor', error.message);
    });
    const text = JSON.stringify(answer ?? null);
    if (text.length > ANSWER_BYTES_MAX) {
      throw new PenstockError('too-large', `an answer of more than ${ANSWER_BYTES_MAX} bytes: ask for less`);
    }
    return valueWithoutSecrets(JSON.parse(text), target.credentials);
  }

  async #run<T>(
    { url: text, credentials, isTenants, party }: Target,
    work: (vendor: Vendor, url: URL, options: VendorOptions, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    if (!this.#running.take(party)) throw new PenstockError('unavailable', 'too many calls are under way already');
    try {
      const { url, vendor } = await this.#find(text);
      const checkHost = (host: string): void => this.#hosts.check(host, isTenants);
      for (const host of hostsOf(vendor, url)) checkHost(host);
      const lookup = this.#hosts.lookupOf(isTenants);
      const options = { credentials, checkHost, lookup, bytesMax: ANSWER_BYTES_MAX };
      return await work(vendor, url, options, AbortSignal.timeout(TIME_MS));
    } catch (error) {
      const code = error instanceof PenstockError ? error.code : 'io';
      // Anew, without the cause: a client library's error may hold what it was given.
      throw new PenstockError(code, withoutSecrets(describeError(error), credentials));
    } finally {
      this.#running.give(party);
    }
  }

  async #find(text: string): Promise<{ readonly url: URL; readonly driver: DriverInfo; readonly vendor: Vendor }> {
    const url = parsePortUrl(text);
    const driver = (await this.drivers()).find(({ scheme }) => `${scheme}:` === url?.protocol);
    if (url !== null && driver?.vendor != null) return { url, driver, vendor: driver.vendor };
    const known = (await this.drivers()).flatMap(({ vendor, form }) => (vendor === null ? [] : [form]));
    throw new PenstockError('usage', `address: ${shownInError(text)}: expected one of ${known.join(', ')}`);
  }
}

/** What is wrong in a URL is wrong in the request. */
function hostsOf(vendor: Vendor, url: URL): readonly string[] {
  try {
    return vendor.hosts(url);
  } catch (error) {
    if (isCode(error, 'config')) throw new PenstockError('usage', `address: ${error.message}`);
    throw error;
  }
}

/** In its texts and names: in the JSON of it, a password of digits or `null` would leave none. */
function valueWithoutSecrets(value: unknown, credentials: Credentials): unknown {
  if (typeof value === 'string') return withoutSecrets(value, credentials);
  if (Array.isArray(value)) return value.map((one) => valueWithoutSecrets(one, credentials));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, one]) => [
      withoutSecrets(name, credentials),
      valueWithoutSecrets(one, credentials),
    ]),
  );
}

/** As it is, in JSON, in URLs, and as Basic and SASL send it. */
function formsOf(value: string): ReadonlySet<string> {
  const base64 = Buffer.from(value).toString('base64').replace(/=+$/, '');
  return new Set([value, JSON.stringify(value).slice(1, -1), encodeURIComponent(value), encodeURI(value), base64]);
}

function withoutSecrets(text: string, credentials: Credentials): string {
  let shown = text;
  for (const value of Object.values(credentials)) {
    if (value.length < SECRET_CHARS_MIN) continue;
    for (const form of formsOf(value)) shown = shown.replaceAll(form, '(sealed)');
  }
  return shown;
}

const REMEDIES: Partial<Readonly<Record<ErrorCode, string>>> = {
  denied: 'check the credentials and what their owner may do there',
  'not-found': 'check the name behind the host, or make it there first',
  unavailable: 'check host and port, that it runs, and that this server may reach it (firewall, network policy)',
  timeout: 'check host and port, and that this server may reach it (firewall, network policy)',
  config: 'check the URL and its options',
  usage: 'check the URL and its options',
  unsupported: 'use a version that is supported',
  conflict: 'add the key that sealed the credentials, or send these again',
  corrupt: 'send the credentials again',
};
