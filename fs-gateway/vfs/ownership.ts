/** What a new inode inherits from its directory, and which mode bits fall when others may write or own a file. */
import { newInode, S_IFDIR, S_IFMT } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';

const S_ISUID = 0o4000;
const S_ISGID = 0o2000;
const S_IXGRP = 0o0010;

/** The quota of the directory; the group of a setgid one, and setgid itself for directories in it (inode_init_owner of Linux). */
export function inherit(
  parent: Node,
  caller: { readonly uid: number; readonly gid: number },
  mode: number,
  nowNs: bigint,
  fields: Partial<Inode>,
): Inode {
  const directory = (mode & S_IFMT) === S_IFDIR;
  const setgid = (parent.inode.mode & S_ISGID) !== 0;
  return newInode(
    directory && setgid ? mode | S_ISGID : mode,
    caller.uid,
    setgid ? parent.inode.gid : caller.gid,
    nowNs,
    { quota: parent.inode.quota, ...(directory && { parent: parent.ino }), ...fields },
  );
}

/** Setuid falls, and setgid where it means "run as the group" (with group execute; else it marks mandatory locking). */
export function withoutSuidGid(mode: number): number {
  const cleared = mode & ~S_ISUID;
  return (mode & S_IXGRP) === 0 ? cleared : cleared & ~S_ISGID;
}
