/**
 * Credentials at rest: AES-256-GCM with keys of the operator, who keeps them apart from the metadata.
 *
 * Invariants: a nonce is 96 random bits and used once; what is sealed is bound to `context` (which connection, which URL), so that it opens nowhere else: whoever may
 * change a URL cannot send the credentials of the old one there.
 * Rotation: put a new key in front; what the others sealed still opens, and is sealed anew by `connections reseal` or the next change.
 * Limits: KEYS_MAX keys; 2^32 seals under one key are safe, which are more than there will be.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  randomBytes,
  type KeyObject,
} from 'node:crypto';
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';

const KEYS_MAX = 16;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const CIPHER = 'aes-256-gcm';

export const sealedSchema = z.object({ keyId: z.string(), nonce: z.string(), tag: z.string(), data: z.string() });
export type Sealed = z.output<typeof sealedSchema>;

export class Sealer {
  /** The first seals. */
  readonly #keys: ReadonlyMap<string, KeyObject>;

  private constructor(keys: ReadonlyMap<string, KeyObject>) {
    this.#keys = keys;
  }

  /** `text`: a key a line, as `openssl rand -base64 32` prints them. Throws `config`, without any part of a key. */
  static parse(text: string, where: string): Sealer {
    const lines = text.split(/\s+/).filter((line) => line !== '');
    if (lines.length > KEYS_MAX) throw new PenstockError('config', `${where}: expected at most ${KEYS_MAX} keys`);
    const keys = lines.map((line, index) => {
      const bytes = Buffer.from(line, 'base64');
      if (bytes.length !== KEY_BYTES) {
        throw new PenstockError(
          'config',
          `${where}: key ${index + 1}: expected 32 bytes in base64 (openssl rand -base64 32)`,
        );
      }
      return [createHash('sha256').update(bytes).digest('hex').slice(0, 8), createSecretKey(bytes)] as const;
    });
    return new Sealer(new Map(keys));
  }

  /** Of new seals; null: there is no key. */
  get keyId(): string | null {
    return this.#keys.keys().next().value ?? null;
  }

  /** Throws `conflict` without a key. */
  seal(plain: string, context: string): Sealed {
    const [first] = this.#keys;
    if (first === undefined) {
      throw new PenstockError(
        'conflict',
        'credentials cannot be kept: there is no key to seal them with; set PENSTOCK_SEAL_KEYS or serve.connections.keys (openssl rand -base64 32)',
        { retryable: false },
      );
    }
    const [keyId, key] = first;
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, key, nonce).setAAD(Buffer.from(context));
    const data = Buffer.concat([cipher.update(plain, 'utf8'), cipher.final()]);
    const text = (bytes: Buffer): string => bytes.toString('base64');
    return { keyId, nonce: text(nonce), tag: text(cipher.getAuthTag()), data: text(data) };
  }

  /** Throws `conflict` when its key is not known any more, `corrupt` when it was changed or is of something else. */
  open({ keyId, nonce, tag, data }: Sealed, context: string): string {
    const key = this.#keys.get(keyId);
    if (key === undefined) {
      throw new PenstockError(
        'conflict',
        `the credentials were sealed with key ${keyId}, which is not there: add it behind the first one, or send the credentials again`,
        { retryable: false },
      );
    }
    try {
      const bytes = (text: string): Buffer => Buffer.from(text, 'base64');
      const decipher = createDecipheriv(CIPHER, key, bytes(nonce), { authTagLength: 16 });
      decipher.setAAD(Buffer.from(context)).setAuthTag(bytes(tag));
      return Buffer.concat([decipher.update(bytes(data)), decipher.final()]).toString('utf8');
    } catch (error) {
      throw new PenstockError('corrupt', 'the sealed credentials were changed, or are of another connection', {
        cause: error,
      });
    }
  }
}
