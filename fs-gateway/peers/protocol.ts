/**
 * What peers say to each other: `GET /v1/VOLUME-ID/piece?...` with `Authorization: Bearer TOKEN`.
 *
 *   own piece:       object, offset, stored, bytes, crc   (decimal: object id, where it begins in it and how long it is there, length
 *                    and CRC32C of its content)
 *   external chunk:  key, objectBytes, etag, chunk      (of an object of the lake, or a published one, which has an etag; chunks of CHUNK_BYTES)
 *   answer 200:      the bytes, then their checksum (u32, little-endian; piece-trailer.ts): the form in which block-cache.ts keeps them
 *
 * A request says which piece it wants, never what is in it, and there is no other method than GET: no peer changes anything of another.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { assertObjectKey } from '../../lib/store/object-key.ts';
import { CHUNK_BYTES, externalPiece, isOwnObject, ownPiece } from '../data/pieces.ts';
import type { Piece } from '../data/pieces.ts';

/** The largest block that a volume can be formatted with. */
const PIECE_BYTES_MAX = 64 * 2 ** 20;
const TOKEN_BYTES = 32;
const U32_MAX = 2 ** 32 - 1;

export function piecePath(volumeId: string, piece: Piece): string {
  const { objectId, offset, storedBytes, bytes, crc, objectKey, objectBytes, etag } = piece;
  const query =
    objectId !== null
      ? { object: objectId, offset, stored: storedBytes, bytes, crc }
      : { key: objectKey, objectBytes, ...(etag !== null && { etag }), chunk: offset / CHUNK_BYTES };
  return `/v1/${volumeId}/piece?${new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)])).toString()}`;
}

/** The piece that a path asks for; null: the path is no such thing. Throws `usage` for a piece that there cannot be. */
export function parsePiecePath(volumeId: string, path: string): Piece | null {
  const url = URL.parse(path, 'http://peer');
  if (url?.pathname !== `/v1/${volumeId}/piece`) return null;
  const number = (name: string, max: number): number => {
    const text = url.searchParams.get(name) ?? '';
    const value = Number(text);
    if (/^\d+$/.test(text) && value <= max) return value;
    throw new PenstockError('usage', `${name}: expected a whole number up to ${max}`);
  };
  const key = url.searchParams.get('key');
  if (key === null) {
    const pieceBytes = number('bytes', PIECE_BYTES_MAX);
    const storedBytes = number('stored', pieceBytes);
    if (storedBytes === 0) throw new PenstockError('usage', 'stored: expected more than 0');
    return ownPiece(volumeId, {
      objectId: number('object', Number.MAX_SAFE_INTEGER),
      pieceOffset: number('offset', PIECE_BYTES_MAX),
      pieceBytes,
      storedBytes,
      crc: number('crc', U32_MAX),
    });
  }
  assertObjectKey(key);
  if (isOwnObject(key))
    throw new PenstockError('denied', 'key: expected an object that is not a block or a backup of a volume');
  const objectBytes = number('objectBytes', Number.MAX_SAFE_INTEGER);
  const chunk = number('chunk', Math.floor(Number.MAX_SAFE_INTEGER / CHUNK_BYTES));
  if (chunk * CHUNK_BYTES >= objectBytes) throw new PenstockError('usage', 'chunk: lies behind the end of the object');
  const etag = url.searchParams.get('etag');
  return externalPiece({ key, objectBytes, ...(etag !== null && { etag }) }, chunk);
}

/** The secret of the volume's mounts, made by the first that needs it. */
export async function peerToken(engine: MetaEngine, keys: VolumeKeys): Promise<string> {
  const key = keys.peerToken;
  const [known] = await engine.read([key]);
  if (known !== null && known !== undefined) return known.value.toString('hex');
  const value = randomBytes(TOKEN_BYTES);
  const made = await engine.commit({ compare: [{ key, version: null }], write: [{ key, value }] });
  const [mismatch] = made.ok ? [] : made.mismatches;
  const first = mismatch?.kind === 'value' ? mismatch.current?.value : undefined;
  return (first ?? value).toString('hex');
}

/** Takes the same time whatever the header says. */
export function isAuthorized(header: string | undefined, token: string): boolean {
  return timingSafeEqual(digest(header ?? ''), digest(authorization(token)));
}

export function authorization(token: string): string {
  return `Bearer ${token}`;
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
