/** What the drivers need of a URL that `URL` itself does not give. */
import { PenstockError } from './errors.ts';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** The path of a `file:`, `dir:` or `sqlite:` URL. */
export function pathOfUrl(url: URL): string {
  return decodeURIComponent(url.pathname);
}

/** The URL as it may be shown: without user and password. */
export function withoutCredentials(url: URL): string {
  const shown = new URL(url);
  shown.username = '';
  shown.password = '';
  return shown.href;
}

/** The same for what is not a URL, or may not be one: whatever stands where a user and a password would is left out. */
export function textWithoutCredentials(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/]*@/i, '$1');
}

/**
 * Parses the URL of a port. `URL` refuses several hosts with ports (`kafka://a:9092,b:9092`), so they become one percent-encoded
 * host, from which `hostsOfUrl` makes them again. Null when it is no URL, or not percent-encoded (`%zz`).
 */
export function parsePortUrl(text: string): URL | null {
  const encoded = text.replace(
    /^([a-z][a-z0-9+.-]*:\/\/(?:[^/?#@]*@)?)([^/?#@,]*,[^/?#@]*)/i,
    (_, start: string, hosts: string) => start + encodeURIComponent(hosts),
  );
  const url = URL.parse(encoded);
  return url !== null && isDecodable(`${url.username}${url.password}${url.host}${url.pathname}`) ? url : null;
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

/** `host:port` of every host that the URL names. IPv6 addresses stand in brackets. Throws `config`. */
export function hostsOfUrl(url: URL, defaultPort: number): HostPort[] {
  return decodeURIComponent(url.host)
    .split(',')
    .map((text) => {
      const match = /^(\[[0-9a-f:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/i.exec(text);
      const port = Number(match?.[2] ?? defaultPort);
      if (match?.[1] === undefined || port > 65_535) {
        throw new PenstockError(
          'config',
          `'${text}' in ${withoutCredentials(url)} is not a host: expected host or host:port`,
        );
      }
      return { host: match[1].replace(/^\[|\]$/g, ''), port };
    });
}
