/**
 * setattr: mode, owner, times and size, with the rules of chmod(2), chown(2), utimensat(2) and truncate(2). Who may is checked by the
 * kernel (default_permissions); what follows from it (setuid and setgid that fall, times) is done here.
 */
import { isDirectory, S_IFMT } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';
import type { Acls } from './acls.ts';
import { nodeOrThrow, refuseFrozen } from './context.ts';
import type { Context } from './context.ts';
import type { Files } from './files.ts';
import type { Caller, SetAttributes } from './operations.ts';
import { withoutSuidGid } from './ownership.ts';

const MODE_BITS = 0o7777;

export async function setAttributes(
  { context, files, acls }: { readonly context: Context; readonly files: Files; readonly acls: Acls },
  caller: Caller,
  ino: number,
  changes: SetAttributes,
): Promise<Node> {
  const { view, time } = context;
  if (changes.size !== undefined) await files.truncate(ino, changes.size, changes.killSuidGid === true);
  const others =
    changes.mode !== undefined ||
    changes.uid !== undefined ||
    changes.gid !== undefined ||
    changes.atimeNs !== undefined ||
    changes.mtimeNs !== undefined ||
    changes.ctimeNs !== undefined;
  if (others) {
    await view.change(caller.operation, async (change) => {
      const node = await nodeOrThrow(view, ino);
      refuseFrozen(node);
      if (changes.mode !== undefined) await acls.chmod(change, node, changes.mode);
      change.updateNode(node, changed(node.inode, changes, time.nowNs()));
      // Before the commit: killed behind it, the next worker would set the time of what is staged.
      if (changes.mtimeNs !== undefined) files.keepMtime(ino);
    });
  }
  return nodeOrThrow(view, ino);
}

function changed(inode: Inode, changes: SetAttributes, nowNs: bigint): Inode {
  let mode = changes.mode === undefined ? inode.mode : (inode.mode & S_IFMT) | (changes.mode & MODE_BITS);
  // A new owner must not inherit what the old one allowed to whoever runs the file.
  const owned = changes.uid !== undefined || changes.gid !== undefined;
  if (owned && changes.mode === undefined && !isDirectory(inode)) mode = withoutSuidGid(mode);
  const mtimeNs = changes.mtimeNs === 'now' ? nowNs : (changes.mtimeNs ?? inode.mtimeNs);
  return {
    ...inode,
    mode,
    uid: changes.uid ?? inode.uid,
    gid: changes.gid ?? inode.gid,
    atimeNs: changes.atimeNs === 'now' ? nowNs : (changes.atimeNs ?? inode.atimeNs),
    mtimeNs,
    mtimeSetNs: changes.mtimeNs === undefined || !isDirectory(inode) ? inode.mtimeSetNs : nowNs,
    ctimeNs: changes.ctimeNs ?? nowNs,
  };
}
