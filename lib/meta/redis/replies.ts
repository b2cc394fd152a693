/** Replies of scans, as the client library gives them. */

/** A guide for the server, of all scans. */
export const SCAN_COUNT = 1000;

function buffers(reply: unknown): Buffer[] {
  return Array.isArray(reply) ? reply.filter((one) => Buffer.isBuffer(one)) : [];
}

export function scanReply(reply: unknown): readonly [cursor: string, found: Buffer[]] {
  const [cursor, found] = Array.isArray(reply) ? (reply as unknown[]) : [];
  return [Buffer.isBuffer(cursor) ? cursor.toString() : '0', buffers(found)];
}

/** Names and values in turn. */
export function flatPairs(flat: readonly unknown[]): (readonly [field: string, value: Buffer])[] {
  const pairs: (readonly [string, Buffer])[] = [];
  for (let i = 0; i + 1 < flat.length; i += 2) {
    const [field, value] = [flat[i], flat[i + 1]];
    if (Buffer.isBuffer(field) && Buffer.isBuffer(value)) pairs.push([field.toString('latin1'), value]);
  }
  return pairs;
}
