/** What the drivers need of a URL that `URL` itself does not give. */
import { isIP } from 'node:net';
import { PenstockError } from './errors.ts';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** The path of a `file:`, `dir:` or `sqlite:` URL. */
export function pathOfUrl(url: URL): string {
  return decodeURIComponent(url.pathname);
}

/** The URL of a path of this machine: percent-encoded, so that `pathOfUrl` gives it back whatever is in it. */
export function urlOfPath(scheme: 'file' | 'dir' | 'sqlite', path: string): string {
  return `${scheme}:${encodePath(path)}`;
}

export function encodePath(path: string): string {
  return encodeURI(path).replace(/[?#]/g, encodeURIComponent);
}

/** The first place behind which a URL may have a user and a password. A path of this machine has none. */
const BEFORE_USER = /^\s*(?!(?:file|dir|sqlite):)[a-z][a-z0-9+.-]*:[/\\]*|[/\\]{2}|%2F%2F/i;

/**
 * A URL, or a text with one, as it may be shown and logged: without user and password. It parses nothing: somebody who writes `/`, `#`, `?` or `@` into a password
 * as they are writes something that is no URL, or another one. So all up to the last `@` goes, and a host or path that went
 * along is told by `(hidden)`. In time that grows with the text's length and no faster: it may be a request's.
 */
export function withoutCredentials(url: URL | string): string {
  const text = String(url);
  const before = BEFORE_USER.exec(text);
  if (before === null) return text;
  const start = before.index + before[0].length;
  const rest = text.slice(start);
  const at = Math.max(rest.lastIndexOf('@'), rest.lastIndexOf('%40'));
  if (at < 0) return text;
  const shown = rest.slice(at + (rest[at] === '@' ? 1 : 3));
  return `${text.slice(0, start)}${/[/?#\s]|%2F/i.test(rest.slice(0, at)) ? '(hidden)@' : ''}${shown}`;
}

/** What an error says of a URL that is none, or none of a driver. */
export function shownInError(text: string): string {
  const hint = ' (in a user, a password and behind a host, write @ as %40, / as %2F, ? as %3F and # as %23)';
  return `'${withoutCredentials(text)}'${text.includes('@') ? hint : ''}`;
}

/**
 * Parses the URL of a port. `URL` refuses several hosts with ports (`kafka://a:9092,b:9092`), so they become one percent-encoded
 * host, from which `hostsOfUrl` makes them again. Null when it is no URL, not percent-encoded (`%zz`), or has an `@` behind a host: then
 * that may be the half of a password, which the errors about a port or a path would show.
 */
export function parsePortUrl(text: string): URL | null {
  if (isSplitByPassword(text) || !/^(file|dir|sqlite):|^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return null;
  const encoded = text.replace(
    /^([a-z][a-z0-9+.-]*:\/\/(?:[^/?#@]*@)?)([^/?#@,]*,[^/?#@]*)/i,
    (_, start: string, hosts: string) => start + encodeURIComponent(hosts),
  );
  const url = URL.parse(encoded);
  return url !== null && isDecodable(`${url.username}${url.password}${url.host}${url.pathname}`) ? url : null;
}

/** Whether an `@` stands behind what a program takes for the host. A store's path may hold one, where no colon is in front of it. */
export function isSplitByPassword(text: string): boolean {
  if (/^(file|dir|sqlite):/i.test(text)) return false;
  const behind = text.replace(/^[^/?#]*\/*(?:[^/?#]*@)?/, '');
  const last = behind.lastIndexOf('@');
  return last >= 0 && (!/^s3:/i.test(text) || behind.slice(0, last).includes(':'));
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

/** What a TLS client asks for: a host by its name, an address without one (RFC 6066). */
export function serverNameOf(host: string): { readonly servername?: string } {
  return isIP(host) === 0 ? { servername: host } : {};
}
