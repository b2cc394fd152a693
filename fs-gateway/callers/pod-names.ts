/**
 * Names of pods by their uid, which is all that a cgroup says: the CSI node service is told both at a publish (podInfoOnMount) and notes the
 * name in the runtime directory, one small file a pod, where the mount daemons of the node find it.
 *
 * Failure: a note that cannot be written or read costs a name in statistics, nothing else.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensureRuntimeDir, runtimeDir } from '../runtime-dir.ts';

const FOLDER = 'pods';
const UID = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/;
/** A namespace, a name (a DNS subdomain), and the slash between them. */
const NAME = /^[a-z0-9.-]{1,63}\/[a-z0-9.-]{1,253}$/;

/** Of the context of a publish. Whatever is missing in it, or is none: nothing is noted. */
export function notePod(context: Readonly<Record<string, string>>): void {
  const part = (key: string): string => context[`csi.storage.k8s.io/pod.${key}`] ?? '';
  const uid = part('uid');
  const name = `${part('namespace')}/${part('name')}`;
  if (!UID.test(uid) || !NAME.test(name)) return;
  try {
    ensureRuntimeDir();
    mkdirSync(join(runtimeDir(), FOLDER), { recursive: true, mode: 0o700 });
    writeFileSync(join(runtimeDir(), FOLDER, uid), name, { mode: 0o600 });
  } catch {
    // A name less.
  }
}

/** The pod of a target path (`.../pods/<uid>/volumes/...`) has ended. */
export function forgetPod(target: string): void {
  const uid = /\/pods\/([^/]+)\//.exec(target)?.[1] ?? '';
  if (UID.test(uid)) rmSync(join(runtimeDir(), FOLDER, uid), { force: true });
}

export function podNames(uids: readonly string[]): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  for (const uid of uids) {
    try {
      const name = readFileSync(join(runtimeDir(), FOLDER, uid), 'utf8');
      if (NAME.test(name)) names.set(uid, name);
    } catch {
      // Nobody was told.
    }
  }
  return names;
}
