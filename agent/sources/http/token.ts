/** The bearer token of a source, from the configuration or from a file that may be renewed while the agent runs. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../../../lib/clock.ts';
import { PenstockError } from '../../../lib/errors.ts';
import { configuredFile } from '../../config-parts.ts';

/** How long a token that was taken out of the file still opens. */
const READ_AGAIN_MS = 5000;

export class BearerToken {
  readonly #read: () => Promise<string>;
  readonly #clock: Clock;
  #token: Promise<string> | undefined;
  #readAtMs = -Infinity;

  constructor(read: () => Promise<string>, clock: Clock) {
    this.#read = read;
    this.#clock = clock;
  }

  /** Whether an Authorization header carries the token. Throws `config` when its file cannot be read. */
  async opens(authorization: string | undefined): Promise<boolean> {
    const given = /^Bearer +([^ ]+) *$/i.exec(authorization ?? '')?.[1];
    if (given === undefined) return false;
    return timingSafeEqual(hash(given), hash(await this.read()));
  }

  read(): Promise<string> {
    const nowMs = this.#clock.monotonicMs();
    if (this.#token === undefined || nowMs - this.#readAtMs >= READ_AGAIN_MS) {
      this.#readAtMs = nowMs;
      this.#token = this.#read();
    }
    return this.#token;
  }
}

export async function tokenInFile(baseDir: string, path: string): Promise<string> {
  const token = (await configuredFile(baseDir, path, 'tokenFile')).toString('utf8').trim();
  if (token === '') throw new PenstockError('config', `tokenFile: ${path} is empty`);
  return token;
}

/** Of one length, so that the comparison tells nothing. */
function hash(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
