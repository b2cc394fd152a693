/** The requirements of a commit (schema TableRequirement of the specification): what must hold for its updates to be applied. */
import type { TableMetadata } from '../metadata.ts';
import type { Requirement } from './requests.ts';
import { RestError } from './rest-error.ts';

/** Throws CommitFailedException naming the first requirement that does not hold. */
export function checkRequirements(metadata: TableMetadata | null, requirements: readonly Requirement[]): void {
  for (const requirement of requirements) {
    const failed = failure(metadata, requirement);
    if (failed !== null) throw new RestError('CommitFailedException', `requirement failed: ${failed}`);
  }
}

function failure(metadata: TableMetadata | null, requirement: Requirement): string | null {
  if (requirement.type === 'assert-create') return metadata === null ? null : 'the table exists already';
  if (metadata === null) return 'there is no such table';
  const differs = (what: string, expected: unknown, found: unknown): string | null =>
    expected === found ? null : `${what}: expected ${String(expected)}, the table has ${String(found)}`;
  switch (requirement.type) {
    case 'assert-table-uuid':
      return differs('uuid', requirement.uuid, metadata['table-uuid']);
    case 'assert-ref-snapshot-id': {
      const found = metadata.refs[requirement.ref]?.['snapshot-id'] ?? null;
      return differs(`snapshot of ${requirement.ref}`, requirement['snapshot-id'] ?? null, found);
    }
    case 'assert-last-assigned-field-id':
      return differs('last field id', requirement['last-assigned-field-id'], metadata['last-column-id']);
    case 'assert-current-schema-id':
      return differs('current schema', requirement['current-schema-id'], metadata['current-schema-id']);
    case 'assert-last-assigned-partition-id':
      return differs('last partition id', requirement['last-assigned-partition-id'], metadata['last-partition-id']);
    case 'assert-default-spec-id':
      return differs('default partition spec', requirement['default-spec-id'], metadata['default-spec-id']);
    case 'assert-default-sort-order-id':
      return differs('default sort order', requirement['default-sort-order-id'], metadata['default-sort-order-id']);
  }
}
