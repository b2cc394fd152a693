/** Walks a tree of any file system, names as bytes. What cannot be read is handed to `failed`, and the walk goes on. */
import { opendir } from 'node:fs/promises';
import { describeError } from '../../lib/errors.ts';

export interface TreeEntry {
  readonly path: Buffer;
  readonly kind: 'file' | 'directory' | 'other';
}

const SLASH = Buffer.from('/');
const SHOWN_MAX = 20;

/** Failures are counted; the first ones are kept for people. */
export class Failures {
  count = 0;
  readonly shown: string[] = [];

  add(path: Buffer, error: unknown): void {
    this.count++;
    if (this.shown.length < SHOWN_MAX) this.shown.push(`${path.toString()}: ${describeError(error)}`);
  }
}

/** Everything below `root`, without it; symbolic links are not followed. */
export async function* walkTree(root: Buffer, failures: Failures): AsyncGenerator<TreeEntry> {
  const left = [root];
  for (let directory = left.pop(); directory !== undefined; directory = left.pop()) {
    try {
      // A listing of a million names is read in portions.
      for await (const entry of await opendir(directory, { encoding: 'buffer' as BufferEncoding })) {
        // With this encoding names are buffers; the types do not know that.
        const path = Buffer.concat([directory, SLASH, entry.name as unknown as Buffer]);
        const kind = entry.isDirectory() ? 'directory' : entry.isFile() ? 'file' : 'other';
        if (kind === 'directory') left.push(path);
        yield { path, kind };
      }
    } catch (error) {
      failures.add(directory, error);
    }
  }
}
