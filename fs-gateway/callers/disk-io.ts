/**
 * Block I/O of a control group: `io.stat` of version 2, `blkio.throttle.io_service_bytes_recursive` of version 1. All disks and all files of the
 * group count, also those outside of the mount; what the page cache gives does not. Of a container's group its parent is taken: the pod.
 */
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

const ROOT = '/sys/fs/cgroup';
const CONTAINER = /[0-9a-f]{64}(\.scope)?$/;

interface Bytes {
  readonly readBytes: number;
  readonly writtenBytes: number;
}

export class DiskIo {
  readonly #files: readonly string[];
  #first: Bytes | undefined;
  #last: Bytes | undefined;

  constructor({ version, path }: { readonly version: 1 | 2; readonly path: string }) {
    const group = CONTAINER.test(basename(path)) && path.includes('pod') ? dirname(path) : path;
    this.#files =
      version === 2
        ? [join(ROOT, group, 'io.stat'), join(ROOT, 'unified', group, 'io.stat')]
        : [join(ROOT, 'blkio', group, 'blkio.throttle.io_service_bytes_recursive')];
  }

  /** Since the first sample; null: not counted here. A group that is gone keeps its last figures. */
  get counts(): Bytes | null {
    if (this.#first === undefined || this.#last === undefined) return null;
    return {
      readBytes: this.#last.readBytes - this.#first.readBytes,
      writtenBytes: this.#last.writtenBytes - this.#first.writtenBytes,
    };
  }

  async sample(): Promise<void> {
    for (const file of this.#files) {
      const text = await readFile(file, 'utf8').catch(() => null);
      if (text === null) continue;
      this.#last = parseDiskIo(text);
      this.#first ??= this.#last;
      return;
    }
  }
}

/** `8:0 rbytes=1 wbytes=2 rios=...` a disk (version 2), or `8:0 Read 1` and `8:0 Write 2` (version 1). */
export function parseDiskIo(text: string): Bytes {
  const sum = (pattern: RegExp): number =>
    [...text.matchAll(pattern)].reduce((total, [, bytes]) => total + Number(bytes), 0);
  return {
    readBytes: sum(/^\d+:\d+ (?:.* )?(?:rbytes=|Read )(\d+)/gm),
    writtenBytes: sum(/^\d+:\d+ (?:.* )?(?:wbytes=|Write )(\d+)/gm),
  };
}
