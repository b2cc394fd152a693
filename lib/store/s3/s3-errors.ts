/** What S3's errors mean for a caller and for the person who has to repair it. The one mapping of S3's codes to ours. */
import { PenstockError, systemCode } from '../../errors.ts';
import type { ErrorCode } from '../../errors.ts';
import { remoteCredentialSource } from './credential-origin.ts';

export interface ErrorContext {
  /** `get s3://bucket/key` */
  readonly what: string;
  readonly bucket: string;
  /** The endpoint's URL, or `AWS REGION`. */
  readonly server: string;
  /** The access key id in use; null when there is none. */
  readonly keyId: string | null;
}

interface S3Failure {
  readonly name: string;
  readonly message: string;
  readonly status: number | null;
  readonly attempts: number;
  /** Where the bucket is, which S3 tells to who asks elsewhere. */
  readonly region: string | null;
}

/** What S3 answers in another region than the bucket's, and a proxy under another address than the server's. */
const REDIRECTS: readonly (number | null)[] = [301, 302, 307, 308];

/** The parts of an SDK exception that we use. */
export function failureOf(error: unknown): S3Failure {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const { $metadata: metadata, $response: response } = error as {
    readonly $metadata?: { readonly httpStatusCode?: number; readonly attempts?: number };
    readonly $response?: { readonly headers?: Readonly<Record<string, string>> };
  };
  return {
    name,
    message,
    status: metadata?.httpStatusCode ?? null,
    attempts: metadata?.attempts ?? 1,
    region: response?.headers?.['x-amz-bucket-region'] ?? null,
  };
}

export function isAbsent(error: unknown): boolean {
  return ['NoSuchKey', 'NotFound', 'NoSuchUpload'].includes(failureOf(error).name);
}

/** Whether the server takes nothing from these credentials, or not this, or not here: 400 is also that of a session that has expired. */
export function isRefused(error: unknown): boolean {
  const { status } = failureOf(error);
  return [400, 401, 403].includes(status ?? 0) || REDIRECTS.includes(status);
}

/** Whether no later moment mends it. */
export function isLasting(error: unknown): boolean {
  return ['denied', 'not-found', 'config'].includes(codeOf(failureOf(error), systemCode(error)));
}

export function isPreconditionFailed(error: unknown): boolean {
  return failureOf(error).status === 412;
}

export function toStoreError(error: unknown, context: ErrorContext): PenstockError {
  if (error instanceof PenstockError) return error;
  const failure = failureOf(error);
  const code = codeOf(failure, systemCode(error));
  return new PenstockError(code, `${context.what}: ${explain(code, failure, context)}`, { cause: error });
}

function codeOf({ name, status }: S3Failure, system: string | undefined): ErrorCode {
  switch (name) {
    case 'NoSuchKey':
    case 'NoSuchBucket':
    case 'NotFound':
      return 'not-found';
    case 'CredentialsProviderError':
      return remoteCredentialSource() === null ? 'denied' : 'unavailable';
    case 'AccessDenied':
    case 'ExpiredToken':
    case 'ExpiredTokenException':
    case 'InvalidAccessKeyId':
    case 'InvalidToken':
    case 'RequestExpired':
    case 'RequestTimeTooSkewed':
    case 'SignatureDoesNotMatch':
    case 'XAdminUserNotFound': // versitygw's InvalidAccessKeyId
      return 'denied';
    case 'InvalidRange':
      return 'corrupt';
    case 'EntityTooLarge':
    case 'KeyTooLongError':
      return 'too-large';
    case 'QuotaExceeded':
    case 'XMinioStorageFull':
      return 'full';
    case 'PermanentRedirect':
    case 'AuthorizationHeaderMalformed':
    case 'IllegalLocationConstraintException':
      return 'config';
    // Servers over a file system: a key is the folder of another one.
    case 'ExistingObjectIsDirectory':
    case 'ObjectParentIsFile':
    case 'NotImplemented':
      return 'unsupported';
    case 'TimeoutError':
      return 'unavailable';
  }
  if (system === 'ENOSPC') return 'full';
  if (REDIRECTS.includes(status)) return 'config';
  if (status === 401 || status === 403) return 'denied';
  if (status === 404) return 'not-found';
  if (status === 412) return 'conflict';
  if (status === 507) return 'full';
  // No answer at all, or one that says "later".
  if (status === null || status === 429 || status >= 500) return 'unavailable';
  return 'io';
}

function explain(code: ErrorCode, { name, message, status, region }: S3Failure, context: ErrorContext): string {
  const { bucket, server, keyId } = context;
  const key = keyId === null ? 'anonymous' : `access key ${keyId}`;
  switch (name) {
    case 'NoSuchBucket':
      return `bucket '${bucket}' does not exist on ${server}`;
    case 'CredentialsProviderError':
      if (code === 'unavailable') return `no S3 credentials: ${remoteCredentialSource() ?? ''} gives none (${message})`;
      return `no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of the AWS chain (${message})`;
    case 'InvalidAccessKeyId':
    case 'XAdminUserNotFound':
      return `${server} does not know ${key}`;
    case 'SignatureDoesNotMatch':
      return `the secret for ${key} is not the one that ${server} has`;
    case 'ExpiredToken':
    case 'ExpiredTokenException':
      return `the session of ${key} has expired`;
    case 'RequestTimeTooSkewed':
    case 'RequestExpired':
      return `the clock of this machine (${new Date().toISOString()}) is too far from that of ${server}: set it (NTP)`;
    case 'PermanentRedirect':
    case 'AuthorizationHeaderMalformed':
      return `bucket '${bucket}' is in another region than the one configured: set ?region=${region ?? ''} (${message})`;
  }
  if (REDIRECTS.includes(status)) {
    return region === null
      ? `${server} sends elsewhere (HTTP ${status ?? ''}): bucket '${bucket}' is in another region or behind another endpoint: set ?region= or &endpoint=`
      : `bucket '${bucket}' is in another region than the one configured: set ?region=${region}`;
  }
  if (code === 'denied') return `${server} denies it to ${key}${message === '' ? '' : ` (${name}: ${message})`}`;
  if (code === 'unavailable' && status === null) return `${server} does not answer (${name}: ${message})`;
  return `${name}${status === null ? '' : ` (HTTP ${status})`}: ${message}`;
}

export function changed(what: string, etag: string, cause?: unknown): PenstockError {
  return new PenstockError('conflict', `${what}: its etag is not ${etag}`, { cause });
}

/** A proxy or cache between us and the server that mixes up ranges: of others' objects nothing else would show it. */
export function otherRange(what: string, first: string, wanted: number): PenstockError {
  return new PenstockError('corrupt', `${what}: the answer begins at byte ${first}, not at ${wanted} as was asked for`);
}

export function tooShort(what: string, bytes: number, wanted: number): PenstockError {
  return new PenstockError('corrupt', `${what}: it has ${bytes} bytes, not the ${wanted} that were asked for`);
}
