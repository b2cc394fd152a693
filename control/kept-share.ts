/**
 * Bounds of what is kept in the engine for all tenants together (agents, tokens, connections), so that none of them keeps all of it.
 *
 * Invariants: of one party (a tenant, or the platform) there is never much more than its share, which is as in share.ts: half, where there are several parties. Those
 * who make something at the same moment do not see each other, so it may be exceeded by as many.
 * Limits: names are looked at only while there are more than one share of all.
 */
import { PenstockError } from '../lib/errors.ts';
import type { MetaEngine } from '../lib/meta/engine.ts';
import type { Tenants } from './auth/tenants.ts';
import { shareOf, type Party } from './share.ts';

const PAGE = 1000;

interface KeptOptions {
  /** In the plural. */
  readonly what: string;
  /** What to do when there is no room. */
  readonly remedy: string;
  readonly total: number;
  readonly tenants: Tenants;
  /** Whose a record is; else it follows from its field, which is a name. */
  readonly partyOf?: (value: Buffer) => Party;
}

export class KeptShare {
  readonly #options: KeptOptions;
  readonly #each: number;

  constructor(options: KeptOptions) {
    this.#options = options;
    this.#each = shareOf({ total: options.total, parties: options.tenants.names.length + 1 });
  }

  /** Before a record of `party` is made. Throws `full`. */
  async assertRoom(engine: MetaEngine, bucket: string, party: Party): Promise<void> {
    const { what, remedy, total } = this.#options;
    const count = await engine.count(bucket);
    if (count >= total) throw new PenstockError('full', `there are ${total} ${what}: ${remedy}`);
    if (count < this.#each || (await this.#countOf(engine, bucket, party)) < this.#each) return;
    const whose = party === null ? 'the platform' : `tenant ${party}`;
    throw new PenstockError('full', `${whose} has ${this.#each} ${what}, which is its share: ${remedy}`);
  }

  async #countOf(engine: MetaEngine, bucket: string, party: Party): Promise<number> {
    const { tenants, partyOf } = this.#options;
    // A scan may give a field twice.
    const own = new Set<string>();
    for (let cursor: string | null = ''; cursor !== null;) {
      const page = await engine.scan(bucket, cursor, PAGE);
      for (const [field, { value }] of page.entries) {
        if ((partyOf === undefined ? tenants.ownerOf(field) : partyOf(value)) === party) own.add(field);
      }
      cursor = page.cursor;
    }
    return own.size;
  }
}
