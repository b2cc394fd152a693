/**
 * A container of the chart as a kubelet would start it, without an engine: a root of its own (the system's programs and libraries, this checkout in the place of
 * the image's folder) that cannot be written to, the volumes of the pod, its user (a number that has no name) and its capabilities, its environment and nothing
 * else.
 *
 * Limits: no seccomp, no cgroup. Volumes of the host and empty ones are folders of the test, ports are free ones of this machine.
 */
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { start, type Running } from '../support/mount-guard.ts';
import { freePort } from '../support/ports.ts';
import type { Container, Placed } from './helm.ts';

const CHECKOUT = join(import.meta.dirname, '..', '..');
const IMAGE = '/opt/penstock';

/** $1 is the new root, then MOUNTPOINT SOURCE MODE of each volume, `--`, and the command. System folders are links into /usr, or folders of their own. */
const ENTER = `
  root=$1; shift
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 tmpfs "$root"
  for name in bin lib lib64 sbin; do
    if [ -L "/$name" ]; then cp -P "/$name" "$root/"
    elif [ -d "/$name" ]; then mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"; fi
  done
  for name in usr proc dev sys; do mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"; done
  mkdir -p "$root/etc" "$root${IMAGE}"
  echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
  echo '127.0.0.1 localhost' > "$root/etc/hosts"
  mount --bind ${CHECKOUT} "$root${IMAGE}"
  while [ "$1" != -- ]; do
    if [ -d "$2" ]; then mkdir -p "$root$1"; else mkdir -p "$(dirname "$root$1")"; touch "$root$1"; fi
    mount --bind "$2" "$root$1"
    mount -o "remount,bind,$3" "$root$1"
    shift 3
  done
  shift
  mount -o remount,ro "$root"
  exec chroot "$root" "$@"`;

export interface Setting {
  readonly base: string;
  /** Of the Secrets, by their keys. */
  readonly secrets: Readonly<Record<string, string>>;
  /** Files of the ConfigMap. */
  readonly config: Readonly<Record<string, string>>;
  /** Folders by the names of volumes, where several containers are to have the same. */
  readonly shared?: Readonly<Record<string, string>>;
}

export interface BoxedContainer extends Running {
  /** What an HTTP probe of the kubelet gets at a port, by its name; undefined: nothing answers. */
  get(path: string, port: string): Promise<{ readonly status: number; readonly body: string } | undefined>;
}

/** Its process is the program itself: a signal reaches it as it would in a pod. */
export async function startContainer(placed: Placed, setting: Setting): Promise<BoxedContainer> {
  const { manifest, container } = placed;
  const folder = join(setting.base, `${manifest.metadata.name}-${container.name}`);
  const root = join(folder, 'root');
  mkdirSync(root, { recursive: true });
  const ports = new Map<string, { readonly from: string; readonly to: string }>();
  for (const { name, containerPort } of container.ports ?? []) {
    ports.set(name, { from: String(containerPort), to: String(await freePort()) });
  }
  const withPorts = (text: string): string =>
    [...ports.values()].reduce((now, { from, to }) => now.replaceAll(new RegExp(`\\b${from}\\b`, 'g'), to), text);
  const environment = environmentOf(container, setting);
  const args = (container.args ?? []).map((arg) =>
    withPorts(arg.replace(/\$\((\w+)\)/g, (_, name: string) => environment[name] ?? '')),
  );
  const inside = ['env', '-i', ...Object.entries(environment).map((pair) => pair.join('='))];
  const command = [...inside, ...userOf(placed), `${IMAGE}/bin/penstock`, ...args];
  const volumes = volumesOf(placed, setting, folder, withPorts);
  const running = start('unshare', ['--mount', 'sh', '-euc', ENTER, 'sh', root, ...volumes, '--', ...command]);
  return {
    ...running,
    async get(path, port) {
      const url = `http://127.0.0.1:${ports.get(port)?.to ?? 'none'}${path}`;
      const answer = await fetch(url, { signal: AbortSignal.timeout(5000) }).catch(() => undefined);
      return answer && { status: answer.status, body: await answer.text() };
    },
  };
}

/** MOUNTPOINT SOURCE MODE of each. */
function volumesOf(
  { pod, container }: Placed,
  { config, secrets, shared }: Setting,
  folder: string,
  withPorts: (text: string) => string,
): string[] {
  return (container.volumeMounts ?? []).flatMap(({ name, mountPath, readOnly = false }) => {
    const volume = pod.volumes?.find((one) => one.name === name);
    const { path, type = '' } = volume?.hostPath ?? {};
    if (path !== undefined && type === 'CharDevice') return [mountPath, path, 'rw'];
    const made = shared?.[name] ?? join(folder, 'volumes', name);
    if (path !== undefined && type === 'File') {
      // The machine's id, which not every machine has.
      mkdirSync(join(folder, 'volumes'), { recursive: true });
      writeFileSync(made, `${'0123456789abcdef'.repeat(2)}\n`);
      return [mountPath, made, 'rw'];
    }
    if (!existsSync(made)) {
      mkdirSync(made, { recursive: true });
      // An empty one is everybody's of the pod; a folder of the node is root's.
      if (path === undefined) chmodSync(made, 0o777);
    }
    const files = volume?.configMap !== undefined ? config : volume?.secret !== undefined ? secrets : {};
    for (const [key, text] of Object.entries(files)) writeFileSync(join(made, key), withPorts(text));
    return [mountPath, made, readOnly ? 'ro' : 'rw'];
  });
}

function environmentOf(container: Container, { secrets }: Setting): Readonly<Record<string, string>> {
  const own = (container.env ?? []).flatMap(({ name, value, valueFrom }) => {
    const { secretKeyRef, fieldRef } = valueFrom ?? {};
    const given = secretKeyRef === undefined ? value : secrets[secretKeyRef.key];
    const text = fieldRef === undefined ? given : fieldRef.fieldPath === 'spec.nodeName' ? 'node-1' : '0';
    return text === undefined ? [] : [[name, text] as const];
  });
  return { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/', ...Object.fromEntries(own) };
}

function userOf({ pod, container }: Placed): string[] {
  const { runAsUser = 0, privileged = false } = { ...pod.securityContext, ...container.securityContext } as {
    readonly runAsUser?: number;
    readonly privileged?: boolean;
  }; // as Kubernetes has them
  const user = ['setpriv', '--reuid', String(runAsUser), '--regid', String(runAsUser), '--clear-groups'];
  return privileged ? user : [...user, '--no-new-privs', '--bounding-set=-all', '--inh-caps=-all'];
}
