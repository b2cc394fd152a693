/**
 * `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that is sent again with the key of an earlier one does what the
 * earlier one did, and nothing more. What a request makes gets an id that follows from who asks and the key, so the engine itself decides
 * whether it is there already, on whichever server and after whatever restart.
 */
import { createHash, randomUUID } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';

/** The headers of a route that makes something. */
export const idempotencyHeaders = z.object({
  'idempotency-key': z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/, 'expected 1 to 255 printable characters without spaces')
    .optional()
    .meta({ description: 'a repeat with the same key makes nothing new' }),
});

/** The id of what this request makes: the same for its repeats, or a new one without a key. */
export function idOfRequest(request: FastifyRequest): string {
  const key = request.headers['idempotency-key'];
  if (key === undefined) return randomUUID();
  // Two tenants may give the same name to somebody, and the same key to a request.
  const { principal, scope: asked } = request;
  const scope = [
    principal?.tenant ?? '',
    asked.tenant ?? '',
    principal?.name ?? '',
    request.method,
    request.routeOptions.url ?? '',
    key,
  ];
  const hash = createHash('sha256').update(JSON.stringify(scope)).digest();
  // A UUID of version 8 (RFC 9562): bits of our own, with the version and variant in their places.
  hash[6] = ((hash[6] ?? 0) & 0x0f) | 0x80;
  hash[8] = ((hash[8] ?? 0) & 0x3f) | 0x80;
  const hex = hash.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join('-');
}
