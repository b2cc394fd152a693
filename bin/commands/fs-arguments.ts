/** What the arguments and options of the volume tools are, and how they show progress. */
import { InvalidArgumentError } from 'commander';
import { isCode, PenstockError } from '../../lib/errors.ts';
import { formatBytes, parseBytes, parseDuration } from '../../lib/units.ts';
import type { MountStats } from '../../fs-gateway/fuse/mount-stats.ts';

export interface ToolOptions {
  readonly name?: string;
  readonly json?: true;
}

const PROGRESS_EVERY_MS = 1000;
const COUNT_MAX = 1_000_000;

/** A line on stderr, at most once a second and first after a second: short work says nothing. */
export function progressOnStderr(): (phase: string, done: number) => void {
  let lastMs = performance.now();
  return (phase, done) => {
    const nowMs = performance.now();
    if (nowMs - lastMs < PROGRESS_EVERY_MS) return;
    lastMs = nowMs;
    process.stderr.write(`${phase}: ${done}\n`);
  };
}

/** The same of a flush, which tells nothing by itself: what is still staged is asked of the mount. */
export function stagedOnStderr(look: () => Promise<MountStats>): { stop(): void } {
  let asking = false;
  const ask = async (): Promise<void> => {
    if (asking) return;
    asking = true;
    try {
      const { worker } = await look();
      const { stagedFiles = 0, stagedBytes = 0 } =
        (worker !== undefined && 'volume' in worker ? worker.volume : {}) ?? {};
      if (Number(stagedFiles) > 0)
        process.stderr.write(`files staged: ${stagedFiles}, ${formatBytes(Number(stagedBytes))}\n`);
    } catch {
      // The mount has ended meanwhile, or does not answer: the command itself says so.
    } finally {
      asking = false;
    }
  };
  const timer = setInterval(() => void ask(), PROGRESS_EVERY_MS);
  return { stop: () => clearInterval(timer) };
}

function checked<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError(isCode(error, 'config') ? error.message : String(error));
    }
  };
}

export const parseAge = checked(parseDuration);
export const parseSize = checked(parseBytes);
export const parseCount = checked((text: string): number => {
  const count = Number(text);
  if (!Number.isSafeInteger(count) || count < 1 || count > COUNT_MAX) {
    throw new PenstockError('config', `'${text}': expected a whole number from 1 to ${COUNT_MAX}`);
  }
  return count;
});

/** A limit of a quota. (Commander takes a parsed null for no value.) */
function limitOf(parse: (text: string) => number): (text: string) => number | 'none' {
  return (text) => (text === 'none' ? text : parse(text));
}

export const parseBytesLimit = limitOf(parseSize);
export const parseInodesLimit = limitOf(
  checked((text: string): number => {
    const count = Number(text);
    if (text !== '' && Number.isSafeInteger(count) && count >= 0) return count;
    throw new PenstockError('config', `'${text}': expected a whole number, or none`);
  }),
);

/** `K=V` each. Throws `usage`. */
export function keyValues(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      if (at < 1) throw new PenstockError('usage', `'${pair}': expected K=V`);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}
