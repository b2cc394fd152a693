/** One worker of a data loader (loader.ts): does what it is told when it is told, and says how many bytes that were. */
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';

export interface Part {
  readonly path: string;
  readonly offset: number;
  /** 0: to the end. */
  readonly bytes: number;
}

export interface Job {
  readonly kind: 'read' | 'write';
  readonly parts: readonly Part[];
}

const CHUNK_BYTES = 2 ** 20;
const chunk = Buffer.alloc(CHUNK_BYTES, 'checkpoint');

/** Parts of one file that follow each other are read through one handle, as a reader of Parquet does. */
function read(parts: readonly Part[]): number {
  let total = 0;
  for (let at = 0; at < parts.length;) {
    const path = parts[at]?.path ?? '';
    const fd = openSync(path, 'r');
    try {
      for (let part = parts[at]; part?.path === path; part = parts[++at]) total += readPart(fd, part);
    } finally {
      closeSync(fd);
    }
  }
  return total;
}

function readPart(fd: number, { offset, bytes }: Part): number {
  let done = 0;
  while (bytes === 0 || done < bytes) {
    const wanted = bytes === 0 ? CHUNK_BYTES : Math.min(CHUNK_BYTES, bytes - done);
    const got = readSync(fd, chunk, 0, wanted, offset + done);
    if (got === 0) break;
    done += got;
  }
  return done;
}

function write({ path, bytes }: Part): number {
  const fd = openSync(path, 'w');
  try {
    for (let done = 0; done < bytes;) done += writeSync(fd, chunk, 0, Math.min(CHUNK_BYTES, bytes - done));
    fsyncSync(fd);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

process.on('message', ({ kind, parts }: Job) => {
  const bytes = kind === 'read' ? read(parts) : parts.reduce((total, part) => total + write(part), 0);
  process.send?.({ bytes });
});
process.once('disconnect', () => process.exit(0));
process.send?.({ ready: true });
