/** A journal of the version before: it is read, with its damage, and written anew. */
import { crc32c } from '@node-rs/crc32';
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FIRST_AT, FrameKind, readJournal } from '../../fs-gateway/data/journal-frames.ts';
import { commitStaged, expectStaged, openPlainStaging, stagedBytes } from '../support/staging.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 2 ** 20;

/** As the version before this one wrote it: checksums alone, marks that count frames, and segments without a generation. */
function makeOlder(dir: string): void {
  const path = join(dir, 'journal');
  const frames = readJournal(readFileSync(path), path).frames.filter(({ kind }) => kind !== FrameKind.SEGMENT);
  const older = frames.map(({ kind, ino, timeNs, offset, length, bytes }) => {
    const isMark = (kind === FrameKind.CLEAN || kind === FrameKind.SYNC) && offset > 0;
    const frame = Buffer.alloc(FIRST_AT);
    frame.writeUInt32LE(33 + (bytes?.length ?? 0), 0);
    frame.writeUInt8(kind, 8);
    frame.writeDoubleLE(ino, 9);
    frame.writeBigInt64LE(timeNs, 17);
    frame.writeDoubleLE(isMark ? frames.filter(({ at }) => at < offset).length : offset, 25);
    frame.writeDoubleLE(length, 33);
    const whole = Buffer.concat([frame, bytes ?? Buffer.alloc(0)]);
    whole.writeUInt32LE(crc32c(whole.subarray(8)), 4);
    return whole;
  });
  writeFileSync(path, Buffer.concat([...older, Buffer.alloc(1000)]));
  for (const name of readdirSync(dir)) {
    const [, ino, index] = /^(\d+)\.(\d+)\.\d+$/.exec(name) ?? [];
    if (ino !== undefined) renameSync(join(dir, name), join(dir, `${ino}.${index}`));
  }
}

test('a journal of the version before is read, written anew, and gone on with', () => {
  const dir = tempDir('staging');
  const first = openPlainStaging(dir);
  first.opens.opened(5, 1n, 'request');
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  commitStaged(first, file, () => first.write(file, 100, Buffer.alloc(MIB, 'b'), 2n));
  first.write(first.begin(8, 0), 0, Buffer.from('staged of 8'), 4n);
  first.close();
  makeOlder(dir);
  for (let worker = 0; worker < 2; worker++) {
    const next = openPlainStaging(dir);
    expect(next.losses).toEqual([]);
    expect(next.get(7)?.active.ranges[0]).toEqual({ start: 100, end: 100 + MIB, kind: 'data' });
    expectStaged(next.get(7), () => 'b');
    expect([stagedBytes(next, 8, 11).toString(), next.opens.has(5)]).toEqual(['staged of 8', true]);
    next.write(next.begin(7, 0), 32 * MIB + worker, Buffer.from('b'), 5n);
    next.close();
  }
  const last = openPlainStaging(dir);
  expect(last.get(7)?.active.dataBytes).toBe(MIB + 2);
  expectStaged(last.get(7), () => 'b');
  last.close();
});

test('a damaged frame of a journal of the version before costs that frame; one whose head is damaged ends it, which is said', () => {
  for (const [damaged, inos, lost] of [
    ['bytes', [7, 9], [8]],
    ['head', [7], [undefined]],
  ] as const) {
    const dir = tempDir('staging');
    const path = join(dir, 'journal');
    const first = openPlainStaging(dir);
    for (const ino of [7, 8, 9]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}, and more`), 1n);
    first.close();
    makeOlder(dir);
    const older = readFileSync(path);
    const at = older.indexOf('staged of 8');
    older.fill(0xee, damaged === 'head' ? at - 41 : at, at + 1);
    writeFileSync(path, older);
    const reports: string[] = [];
    const next = openPlainStaging(dir, { report: (message) => reports.push(message) });
    expect([...next.files.keys()]).toEqual(inos);
    expect(next.losses.map(({ ino }) => ino)).toEqual(lost);
    expect(reports).toEqual([expect.stringContaining(`${path} is damaged`)]);
    expect(readFileSync(`${path}.damaged.1`).equals(older)).toBe(true);
    next.close();
  }
});
