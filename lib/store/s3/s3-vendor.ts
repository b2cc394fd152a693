/**
 * S3's own operations on the bucket of a URL, for `POST /v1/connections/{name}/call`.
 *
 * Invariants: the bucket is that of the URL, and keys and prefixes lie under its prefix; redirects to other regions are not followed.
 */
import { isIP } from 'node:net';
import {
  AbortMultipartUploadCommand,
  GetBucketEncryptionCommand,
  GetBucketLifecycleConfigurationCommand,
  GetBucketLocationCommand,
  GetBucketVersioningCommand,
  GetObjectTaggingCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutBucketLifecycleConfigurationCommand,
  PutObjectTaggingCommand,
  RestoreObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { z } from 'zod';
import { PenstockError } from '../../errors.ts';
import { type VendorCall, vendorOf } from '../../vendor.ts';
import { makeS3Access, type SendOptions } from './s3-client.ts';
import { toStoreError } from './s3-errors.ts';
import { parseS3Url, type S3Options } from './s3-options.ts';

/** A person waits. */
const ATTEMPTS_MAX = 2;
const CONNECTIONS_MAX = 2;

interface Client {
  readonly options: S3Options;
  readonly keyId: string;
  readonly s3: S3Client;
  readonly bytesMax: number;
}

type Input = Readonly<Record<string, unknown>>;
// Each operation has an input of its own; what is given was checked by the schema beside it.
type Command = new (input: never) => object;

function call(command: Command, changes: boolean, summary: string, fields: z.ZodRawShape): VendorCall<Client> {
  return {
    summary,
    changes,
    parameters: z.strictObject(fields),
    run: async ({ s3, options, keyId, bytesMax }, parameters, signal) => {
      const input = { ...underPrefix(parameters, options.prefix), Bucket: options.bucket };
      try {
        const sending: SendOptions = { abortSignal: signal, bytesMax };
        // As above; every answer has its metadata.
        const sent = await s3.send(new command(input as never) as never, sending as never);
        const { $metadata, ...answer } = sent as { readonly $metadata: { readonly requestId?: string } };
        return { ...answer, requestId: $metadata.requestId ?? null };
      } catch (error) {
        const server = options.endpoint ?? `AWS ${options.region}`;
        throw toStoreError(error, { what: `s3://${options.bucket}`, bucket: options.bucket, server, keyId });
      }
    },
  };
}

/** What is of the whole bucket is not for a connection to a part of it: rules there expire what is others'. */
function wholeBucketCall(...[command, changes, summary, fields]: Parameters<typeof call>): VendorCall<Client> {
  const whole = call(command, changes, summary, fields);
  return {
    ...whole,
    run: async (client, parameters, signal) => {
      if (client.options.prefix !== '') {
        throw new PenstockError(
          'usage',
          `this is of the whole bucket, and the connection of ${client.options.prefix} only: use one whose URL has no prefix`,
        );
      }
      return whole.run(client, parameters, signal);
    },
  };
}

/** Throws `usage` for a key outside of the connection's prefix, also where a server takes keys for paths. */
function underPrefix(parameters: Input, prefix: string): Input {
  const { Key, Prefix } = parameters;
  for (const [name, value] of Object.entries({ Key, Prefix })) {
    if (typeof value !== 'string') continue;
    if (/(^|\/)\.\.?(\/|$)/.test(value)) throw new PenstockError('usage', `${name}: expected no . and .. between /`);
    if (!value.startsWith(prefix)) {
      throw new PenstockError(
        'usage',
        `${name}: expected it to begin with ${prefix}, as the URL of the connection does`,
      );
    }
  }
  return { ...parameters, ...(Key === undefined ? { Prefix: Prefix ?? prefix } : {}) };
}

const listOne = call(ListObjectsV2Command, false, '', {});
const key = z.string().min(1).max(1024);
const listing = { Prefix: z.string().max(1024).optional(), MaxKeys: z.int().min(1).max(1000).default(100) };

export const s3Vendor = vendorOf<Client>({
  credentials: ['accessKeyId*', 'secretAccessKey*'],
  calls: {
    HeadBucket: call(HeadBucketCommand, false, 'Whether the bucket is there and may be used', {}),
    GetBucketLocation: call(GetBucketLocationCommand, false, 'The region of the bucket', {}),
    GetBucketVersioning: call(GetBucketVersioningCommand, false, 'Whether versions are kept', {}),
    GetBucketEncryption: call(GetBucketEncryptionCommand, false, 'How objects are encrypted by default', {}),
    GetBucketLifecycleConfiguration: wholeBucketCall(
      GetBucketLifecycleConfigurationCommand,
      false,
      'What expires, and what moves to which storage class',
      {},
    ),
    ListObjectsV2: call(ListObjectsV2Command, false, 'Objects under the prefix', {
      ...listing,
      Delimiter: z.string().max(10).optional(),
      ContinuationToken: z.string().max(2000).optional(),
    }),
    ListMultipartUploads: call(ListMultipartUploadsCommand, false, 'Uploads that were begun and not ended', {
      Prefix: listing.Prefix,
      MaxUploads: listing.MaxKeys,
    }),
    HeadObject: call(HeadObjectCommand, false, 'What is known of an object: size, storage class, restore', {
      Key: key,
    }),
    GetObjectTagging: call(GetObjectTaggingCommand, false, 'The tags of an object', { Key: key }),
    PutObjectTagging: call(PutObjectTaggingCommand, true, 'Set the tags of an object', {
      Key: key,
      Tagging: z.strictObject({ TagSet: z.array(z.strictObject({ Key: z.string(), Value: z.string() })).max(10) }),
    }),
    PutBucketLifecycleConfiguration: wholeBucketCall(
      PutBucketLifecycleConfigurationCommand,
      true,
      'Set the lifecycle rules',
      { LifecycleConfiguration: z.strictObject({ Rules: z.array(z.record(z.string(), z.unknown())).min(1).max(100) }) },
    ),
    AbortMultipartUpload: call(AbortMultipartUploadCommand, true, 'End an upload that nobody will', {
      Key: key,
      UploadId: z.string().min(1).max(1024),
    }),
    RestoreObject: call(RestoreObjectCommand, true, 'Bring an object back from an archive class', {
      Key: key,
      RestoreRequest: z.strictObject({
        Days: z.int().min(1).max(365),
        GlacierJobParameters: z.strictObject({ Tier: z.enum(['Standard', 'Bulk', 'Expedited']) }).optional(),
      }),
    }),
  },
  hosts: (url) => {
    const { bucket, endpoint, region, pathStyle } = parseS3Url(url);
    if (endpoint === null) return [`s3.${region}.amazonaws.com`];
    const host = new URL(endpoint).hostname.replace(/^\[|\]$/g, '');
    // The client asks the bucket's own host then, unless the endpoint is an address.
    return pathStyle || isIP(host) !== 0 ? [host] : [host, `${bucket}.${host}`];
  },
  // A HEAD has no body that would say what is wrong.
  probe: (client, signal) => listOne.run(client, { Prefix: undefined, MaxKeys: 1 }, signal),
  open: async (url, { credentials, lookup, bytesMax }, _signal, use) => {
    const options = { ...parseS3Url(url), attemptsMax: ATTEMPTS_MAX, connectionsMax: CONNECTIONS_MAX };
    const { accessKeyId = '', secretAccessKey = '' } = credentials;
    const { client: s3 } = makeS3Access(options, { accessKeyId, secretAccessKey }, lookup);
    try {
      return await use({ options, s3, keyId: `${accessKeyId.slice(0, 4)}…`, bytesMax });
    } finally {
      s3.destroy();
    }
  },
});
