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

function read({ path, offset, bytes }: Part): number {
  const fd = openSync(path, 'r');
  try {
    let done = 0;
    while (bytes === 0 || done < bytes) {
      const wanted = bytes === 0 ? CHUNK_BYTES : Math.min(CHUNK_BYTES, bytes - done);
      const got = readSync(fd, chunk, 0, wanted, offset + done);
      if (got === 0) break;
      done += got;
    }
    return done;
  } finally {
    closeSync(fd);
  }
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
  let bytes = 0;
  for (const part of parts) bytes += kind === 'read' ? read(part) : write(part);
  process.send?.({ bytes });
});
process.once('disconnect', () => process.exit(0));
process.send?.({ ready: true });
