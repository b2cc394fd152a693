/** `s3://bucket/prefix?option=value`: what it says, checked. */
import { PenstockError } from '../../errors.ts';
import { parseBytes, parseDuration } from '../../units.ts';

export interface S3Options {
  readonly bucket: string;
  /** '' or `some/folder/`. */
  readonly prefix: string;
  readonly endpoint: string | null;
  readonly region: string;
  readonly pathStyle: boolean;
  readonly sse: 'AES256' | 'aws:kms' | null;
  readonly kmsKeyId: string | null;
  readonly storageClass: string | null;
  readonly connectionsMax: number;
  readonly requestsPerSecond: number | null;
  readonly bytesPerSecond: number | null;
  readonly deadlineMs: number;
  readonly attemptsMax: number;
  readonly hedgeMs: number | null;
}

export const S3_OPTIONS = {
  endpoint: 'URL of another server than AWS; then path style, unless pathStyle=false',
  region: 'default AWS_REGION; with an endpoint us-east-1',
  pathStyle: 'true or false',
  sse: 'AES256 or aws:kms, of the objects that are put',
  kmsKeyId: 'with sse=aws:kms',
  storageClass: 'STANDARD_IA..., of the objects that are put',
  connections: 'sockets at most; default 64',
  requests: 'requests per second at most; default no limit',
  bandwidth: 'as 50MB: bytes per second at most, up and down together; default no limit',
  deadline: 'of one call, with all its retries (putFile and getFile: of every part); default 60s',
  attempts: 'of one request; default 10',
  hedge: 'as 50ms: send a GET again when it has no answer by then, and take the first answer',
} as const;
type Name = keyof typeof S3_OPTIONS;

/** Throws `config` naming the option. */
export function parseS3Url(url: URL): S3Options {
  for (const name of url.searchParams.keys()) {
    if (!Object.hasOwn(S3_OPTIONS, name)) {
      fail(url, name, `no such option; there are ${Object.keys(S3_OPTIONS).join(', ')}`);
    }
  }
  if (url.hostname === '') fail(url, 'bucket', 'expected s3://bucket/prefix');
  if (url.username !== '' || url.password !== '') {
    throw new PenstockError(
      'config',
      `s3://${url.hostname}: no credentials in the URL, please: they would be shown and logged; use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY`,
    );
  }
  const get = (name: Name): string | null => url.searchParams.get(name);
  const endpoint = get('endpoint');
  if (endpoint !== null) checkEndpoint(url, endpoint);
  const sse = get('sse');
  if (sse !== null && sse !== 'AES256' && sse !== 'aws:kms') fail(url, 'sse', 'expected AES256 or aws:kms');
  const kmsKeyId = get('kmsKeyId');
  if (kmsKeyId !== null && sse !== 'aws:kms') fail(url, 'kmsKeyId', 'needs sse=aws:kms');
  const region = get('region') ?? process.env['AWS_REGION'] ?? process.env['AWS_DEFAULT_REGION'];
  if (region === undefined && endpoint === null) fail(url, 'region', 'expected a region here or in AWS_REGION');
  const prefix = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '');
  const hedge = get('hedge');
  const bandwidth = get('bandwidth');
  if (bandwidth !== null && parseBytes(bandwidth) === 0) fail(url, 'bandwidth', 'expected more than 0');
  return {
    bucket: url.hostname,
    prefix: prefix === '' ? '' : `${prefix}/`,
    endpoint,
    region: region ?? 'us-east-1',
    pathStyle: boolean(url, 'pathStyle') ?? endpoint !== null,
    sse,
    kmsKeyId,
    storageClass: get('storageClass'),
    connectionsMax: count(url, 'connections') ?? 64,
    requestsPerSecond: count(url, 'requests'),
    bytesPerSecond: bandwidth === null ? null : parseBytes(bandwidth),
    deadlineMs: parseDuration(get('deadline') ?? '60s'),
    attemptsMax: count(url, 'attempts') ?? 10,
    hedgeMs: hedge === null ? null : parseDuration(hedge),
  };
}

function checkEndpoint(url: URL, endpoint: string): void {
  const parsed = /^https?:\/\//.test(endpoint) ? URL.parse(endpoint) : null;
  if (parsed === null) return fail(url, 'endpoint', 'expected http://... or https://...');
  // Not only what was parsed as such: half of a secret with a slash in it would be taken for a path.
  if (endpoint.includes('@'))
    fail(url, 'endpoint', 'no credentials in the URL, please: they would be shown and logged');
}

function fail(url: URL, name: string, expected: string): never {
  throw new PenstockError('config', `s3://${url.hostname}${url.pathname}: ${name}: ${expected}`);
}

function boolean(url: URL, name: Name): boolean | null {
  const text = url.searchParams.get(name);
  if (text !== null && text !== 'true' && text !== 'false') fail(url, name, 'expected true or false');
  return text === null ? null : text === 'true';
}

function count(url: URL, name: Name): number | null {
  const text = url.searchParams.get(name);
  if (text !== null && !/^[1-9]\d{0,4}$/.test(text)) fail(url, name, 'expected a number from 1 to 99999');
  return text === null ? null : Number(text);
}
