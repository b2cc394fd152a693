/** Conditional requests (RFC 9110, section 13) to what several people edit: nobody overwrites what they did not see. */
import { z } from 'zod';
import { HttpProblem } from './problem.ts';

/** Quoted as the RFC has it, or bare: people type them. */
const entityTag = z.string().max(1000);

export const editHeaders = z.object({
  'if-match': entityTag
    .optional()
    .meta({ description: 'the version (ETag) that the change was made from; needed where there is one' }),
});

export const readHeaders = z.object({
  'if-none-match': entityTag
    .optional()
    .meta({ description: 'the version (ETag) that is known: 304 while it is the one' }),
});

export const etagOf = (version: string): string => `"${version}"`;

export function matches(header: string, version: string): boolean {
  const tags = header.split(',').map((tag) => tag.trim().replace(/^(?:W\/)?"(.*)"$/, '$1'));
  return tags.includes(version) || tags.includes('*');
}

/** Throws 412 or 428 unless `header` (If-Match) allows to change `current`; null: there is none yet, which needs no header. */
export function assertMatch(header: string | undefined, current: string | null): void {
  if (header === undefined) {
    if (current === null) return;
    throw new HttpProblem(
      428,
      'precondition-required',
      `there is version ${current}: send it as If-Match, so that a change made meanwhile is not lost`,
    );
  }
  if (current !== null && matches(header, current)) return;
  const is = current === null ? 'there is none' : `it is ${current}`;
  throw new HttpProblem(
    412,
    'precondition-failed',
    `the version that the change was made from is not the present one: ${is}`,
  );
}
