/** What fsck can find, what each means for whoever uses the volume, and what repairing it does. docs/VOLUMES.md has the same table. */
import type { Repair } from './fsck-repair.ts';

export const FINDINGS = {
  'damaged-record': {
    means: 'what the record held cannot be known; what needs it fails with EIO',
    repair: 'a damaged name is removed (its inode is then found without a name); other records are left',
  },
  'dangling-entry': { means: 'the name leads nowhere: ENOENT at open', repair: 'the name is removed' },
  'wrong-entry-type': { means: 'readdir reports a wrong type', repair: 'the type is taken from the inode' },
  'second-directory-name': {
    means: 'a directory has two names',
    repair: 'the name that its `..` does not lead to is removed',
  },
  'wrong-parent': {
    means: '`..` leads to another directory',
    repair: '`..` is set to the directory that has the name',
  },
  'unnamed-inode': {
    means: 'no name leads to it: its space is used, nobody can open it',
    repair: 'it is named in /lost+found',
  },
  'directory-cycle': {
    means: 'directories that contain each other and cannot be reached from the root',
    repair: 'one of them is moved to /lost+found',
  },
  'lost-inode': {
    means: 'entries or content of an inode whose record is gone',
    repair: 'an inode is made for them; one that no name leads to comes to /lost+found',
  },
  'wrong-link-count': { means: 'stat reports a wrong number of links', repair: 'it is set to the number of names' },
  'wrong-subdirectory-count': {
    means: 'stat of the directory reports a wrong number of links',
    repair: 'it is counted anew',
  },
  'missing-content': { means: 'the content of a small file is gone: reads fail with EIO', repair: 'nothing' },
  'extent-outside': { means: 'an extent lies outside of its file or page: its bytes are not shown', repair: 'nothing' },
  'missing-object': {
    means: 'reads of these bytes fail with EIO',
    repair: 'nothing: restore the object from a copy of the store',
  },
  'short-object': {
    means: 'reads behind its end fail with EIO',
    repair: 'nothing: restore the object from a copy of the store',
  },
  'changed-object': {
    means: 'somebody wrote a published object again: reads fail with EIO, never with a mix of both versions',
    repair: 'nothing: remove the file, and publish the object again',
  },
  'wrong-quota': {
    means: 'it counts to another quota than the directory it is in',
    repair: 'it counts to that of its directory',
  },
  'wrong-usage': { means: 'df or a quota reports wrong figures', repair: 'they are counted anew' },
  'low-counter': { means: 'new files or objects would get numbers that are taken', repair: 'the counter is raised' },
} as const;

export type FindingKind = keyof typeof FINDINGS;

export interface Finding {
  readonly kind: FindingKind;
  /** Where, for people: a path where one is known. */
  readonly text: string;
  readonly means: string;
  readonly repair: string;
  readonly repaired: boolean;
}

/** The findings of one walk. With a `Repair`, they are repaired as they are found. */
export class Findings {
  readonly list: Finding[] = [];
  readonly #repair: Repair | undefined;

  constructor(repair: Repair | undefined) {
    this.#repair = repair;
  }

  /** `act` repairs, and returns false when it could not (any more). */
  async add(kind: FindingKind, text: string, act?: (repair: Repair) => Promise<boolean>): Promise<void> {
    const repaired = this.#repair !== undefined && act !== undefined && (await act(this.#repair));
    this.list.push({ kind, text, ...FINDINGS[kind], repaired });
  }
}
