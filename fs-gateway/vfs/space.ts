/**
 * What is left under the quotas. statfs shows the use of the volume, or of the nearest quota with a limit, and what may still be added
 * under all limits; a write that will not fit is refused at once. Whether it does is decided by the commit (meta/quotas.ts).
 */
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { Account, QuotaRoot } from '../meta/quotas.ts';
import type { Node } from '../meta/cache.ts';
import type { VolumeView } from '../meta/view.ts';
import { NAME_MAX, nodeOrThrow } from './context.ts';
import { Errno, PosixError } from './operations.ts';
import type { StatFs } from './operations.ts';

const BLOCK_BYTES = 4096;
/** An object store has no end: what df shows as free, 1 PiB. */
const FREE_BYTES = 2 ** 50;
const FREE_INODES = 2 ** 40;

interface Space {
  readonly used: number;
  readonly free: number;
}

export async function spaceOf(view: VolumeView, ino: number): Promise<StatFs> {
  const node = await nodeOrThrow(view, ino);
  const account = await view.quotas.account(node.inode.quota);
  const bytes = await space(view, account, 'bytes', ({ bytesMax }) => bytesMax, FREE_BYTES);
  const inodes = await space(view, account, 'inodes', ({ inodesMax }) => inodesMax, FREE_INODES);
  const [used, free] = [Math.ceil(bytes.used / BLOCK_BYTES), Math.floor(bytes.free / BLOCK_BYTES)];
  return {
    blocks: BigInt(used + free),
    blocksFree: BigInt(free),
    blocksAvailable: BigInt(free),
    files: BigInt(inodes.used + inodes.free),
    filesFree: BigInt(inodes.free),
    blockSize: BLOCK_BYTES,
    nameMax: NAME_MAX,
  };
}

async function space(
  view: VolumeView,
  account: Account,
  what: 'bytes' | 'inodes',
  limitOf: (root: QuotaRoot) => number | null,
  unlimited: number,
): Promise<Space> {
  const limits = account.map(limitOf);
  const nearest = limits.findIndex((limit) => limit !== null);
  if (nearest < 0) {
    const [used = 0] = await view.quotas.usage([{ ino: ROOT_INO }], what);
    return { used, free: unlimited };
  }
  const usage = await view.quotas.usage(account, what);
  const free = limits.map((limit, index) => (limit === null ? unlimited : Math.max(0, limit - (usage[index] ?? 0))));
  return { used: usage[nearest] ?? 0, free: Math.min(...free) };
}

/** EDQUOT when a file that grows to `size` bytes will not fit; undefined: it will, as far as is known here. */
export function admit(view: VolumeView, node: Node, size: number): Promise<void> | undefined {
  const growth = size - node.inode.size;
  if (growth <= 0) return undefined;
  const account = view.quotas.account(node.inode.quota);
  if (account instanceof Promise) return account.then(() => admit(view, node, size));
  if (account.length === 0) return undefined;
  const fits = view.quotas.fits(account, growth);
  if (fits instanceof Promise) return fits.then((now) => refuseUnless(now, node));
  refuseUnless(fits, node);
  return undefined;
}

function refuseUnless(fits: boolean, { ino }: Node): void {
  if (!fits) throw new PosixError(Errno.EDQUOT, `no room for inode ${ino} in its quota`);
}
