import type { FileHandle } from 'node:fs/promises';

/**
 * Writes all of `bytes`, from `offset` on, or where the file stands; `bytesMax` at a time. One write does not: a disk that fills up takes a part of it without an
 * error, which only the next one has.
 */
export async function writeAll(
  file: FileHandle,
  bytes: Uint8Array,
  offset: number | null = null,
  bytesMax = Infinity,
): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const at = offset === null ? null : offset + done;
    done += (await file.write(bytes, done, Math.min(bytesMax, bytes.byteLength - done), at)).bytesWritten;
  }
}
