/** Certificates for tests, made by openssl: an authority, a server of 127.0.0.1 and localhost, a client, and a server whose time is over. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HANG_MS } from './hang.ts';

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

export interface Certificates {
  /** Path of the authority's certificate. */
  readonly ca: string;
  readonly server: Certificate;
  readonly client: Certificate;
  readonly expired: Certificate;
}

/** Paths of PEM files in `dir`. */
export function makeCertificates(dir: string): Certificates {
  const at = (name: string): string => join(dir, name);
  const newKey = (name: string): string[] => [
    ...['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
    ...['-keyout', at(`${name}.key`), '-subj', `/CN=${name}`],
  ];
  openssl('req', '-x509', ...newKey('authority'), '-days', '2', '-out', at('authority.pem'));
  writeFileSync(at('names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n');
  const signed = (name: string, days: number): Certificate => {
    openssl('req', '-new', ...newKey(name), '-out', at(`${name}.csr`));
    openssl(
      ...['x509', '-req', '-in', at(`${name}.csr`), '-CA', at('authority.pem'), '-CAkey', at('authority.key')],
      ...['-CAcreateserial', '-days', String(days), '-extfile', at('names'), '-out', at(`${name}.pem`)],
    );
    return { cert: at(`${name}.pem`), key: at(`${name}.key`) };
  };
  return {
    ca: at('authority.pem'),
    server: signed('server', 2),
    client: signed('client', 2),
    // Over at the second in which it was made.
    expired: signed('expired', 0),
  };
}

function openssl(...args: readonly string[]): void {
  execFileSync('openssl', args, { stdio: 'ignore', timeout: HANG_MS });
}
