/**
 * AWS Signature Version 4 in the `Authorization` header, for requests that do not go through the SDK (signed-gets.ts): without a query and without a body.
 * Source: "Create a signed AWS API request" in the reference of AWS IAM; for S3 the path is encoded once.
 */
import { createHmac, hash } from 'node:crypto';

const ALGORITHM = 'AWS4-HMAC-SHA256';
/** The SHA-256 of nothing. */
const NO_BODY = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

/** Where and for what a signature counts. */
export interface Scope {
  readonly region: string;
  readonly service: string;
}

export interface SigningCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface Unsigned {
  readonly method: string;
  /** As it is sent, encoded. */
  readonly path: string;
  /** With names in lower case, `host` among them. All are signed. */
  readonly headers: Readonly<Record<string, string>>;
}

export class Signer {
  readonly #scope: Scope;
  /** The key counts for a day, and four of the six hashes are for it. */
  #secret = '';
  #day = '';
  #key: Buffer = Buffer.alloc(0);

  constructor(scope: Scope) {
    this.#scope = scope;
  }

  /** The headers of the request, with those that sign it. */
  sign({ method, path, headers }: Unsigned, credentials: SigningCredentials, now: Date): Record<string, string> {
    const { accessKeyId, secretAccessKey, sessionToken } = credentials;
    const { region, service } = this.#scope;
    const time = now.toISOString().replace(/[-:]|\.\d+/g, '');
    const day = time.slice(0, 8);
    const all: Record<string, string> = {
      ...headers,
      'x-amz-content-sha256': NO_BODY,
      'x-amz-date': time,
      ...(sessionToken === undefined ? {} : { 'x-amz-security-token': sessionToken }),
    };
    const names = Object.keys(all).sort();
    const lines = names.map((name) => `${name}:${(all[name] ?? '').trim().replace(/ +/g, ' ')}\n`).join('');
    const signedHeaders = names.join(';');
    const request = `${method}\n${path}\n\n${lines}\n${signedHeaders}\n${NO_BODY}`;
    const scope = `${day}/${region}/${service}/aws4_request`;
    const toSign = `${ALGORITHM}\n${time}\n${scope}\n${hash('sha256', request)}`;
    const signature = hmac(this.#keyOf(secretAccessKey, day), toSign).toString('hex');
    all['authorization'] =
      `${ALGORITHM} Credential=${accessKeyId}/${scope}, SignedHeaders=${signedHeaders}, Signature=${signature}`;
    return all;
  }

  #keyOf(secret: string, day: string): Buffer {
    if (secret === this.#secret && day === this.#day) return this.#key;
    const { region, service } = this.#scope;
    this.#key = [day, region, service, 'aws4_request'].reduce<Buffer>(hmac, Buffer.from(`AWS4${secret}`));
    [this.#secret, this.#day] = [secret, day];
    return this.#key;
  }
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}
