/** The staging area of a mount, without the mount. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import type { StagingOptions } from '../../fs-gateway/data/staging.ts';

/** With promises (`-o writeback`). */
export function openStaging(
  dir: string,
  bootId: string,
  life = 'one',
  isCommitted: StagingOptions['isCommitted'] = () => false,
  reports: string[] = [],
): Staging {
  return new Staging({ dir, life, bootId, promises: true, isCommitted, report: (message) => reports.push(message) });
}

/** Without promises: a segment may serve another file. */
export function openPlainStaging(dir: string, more: Pick<StagingOptions, 'report' | 'room'> = {}): Staging {
  return new Staging({ dir, life: 'one', bootId: 'boot', promises: false, isCommitted: () => false, ...more });
}

export function commitStaged(staging: Staging, file: StagedFile, meanwhile: () => void = () => undefined): void {
  const flush = staging.beginFlush(file, 2n);
  meanwhile();
  staging.committed(file, flush, 3n);
}

/** All of it. */
export function stagedContent(file: StagedFile | undefined): Buffer {
  const bytes = Buffer.alloc(file?.size ?? 0);
  file?.overlay(0, bytes);
  return bytes;
}

const SEGMENT = /^(?:\d+|free)\.\d+/;

/** The names of segments, without the generations in them. */
export function segmentsIn(dir: string): string[] {
  return readdirSync(dir)
    .flatMap((name) => SEGMENT.exec(name)?.[0] ?? [])
    .sort();
}

/** Where the segment of this name is, whatever its generation. */
export function segmentPath(dir: string, segment: string): string {
  const name = readdirSync(dir).find((name) => name === segment || name.startsWith(`${segment}.`));
  return join(dir, name ?? segment);
}

export function stagedBytes(staging: Staging, ino: number, length: number): Buffer {
  const target = Buffer.alloc(length);
  staging.get(ino)?.overlay(0, target);
  return target;
}

/** What is staged of the file, as it would be uploaded: nothing else may be in it than what was written there. */
export function expectStaged(file: StagedFile | undefined, allowed: (at: number) => string): void {
  for (const { start, end, kind } of file?.active.ranges ?? []) {
    if (kind === 'hole') continue;
    const bytes = Buffer.alloc(end - start);
    file?.load(start, bytes, 0, bytes.length);
    for (const at of [start, Math.floor((start + end) / 2), end - 1])
      expect(String.fromCharCode(bytes[at - start] ?? 0), `byte ${at} of ${start} to ${end}`).toBe(allowed(at));
  }
}
