/**
 * Network namespaces as the nodes of a cluster: each with a link of its own to a hub, which can be cut. Mounts stay in the mount namespace that
 * all share, so that whoever looks sees them.
 */
import { spawn } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/** A private range that only the hub and the namespaces have. */
const RANGE = '10.213.77';
const HUB = `${RANGE}.1`;

export interface NetworkNode {
  /** What to put before a command that is to run on the node. */
  readonly prefix: readonly string[];
  /** Every packet from and to the node is dropped until `restore`. */
  cut(): void;
  restore(): void;
}

/** Everything is taken down when the test ends. `ports`: of services on the loopback interface here, reachable at the same ports on each node. */
export async function makeNetwork(names: readonly string[], ports: readonly number[]): Promise<NetworkNode[]> {
  const tag = `ps${process.pid}`.slice(0, 9);
  const bridge = `${tag}br`;
  quietly('link', 'del', bridge);
  ip('link', 'add', bridge, 'type', 'bridge');
  onTestFinished(() => quietly('link', 'del', bridge));
  ip('addr', 'add', `${HUB}/24`, 'dev', bridge);
  ip('link', 'set', bridge, 'up');
  await relay([], HUB, '127.0.0.1', ports);
  return Promise.all(names.map((name, index) => makeNode(name, `${tag}-${index}`, bridge, index, ports)));
}

async function makeNode(
  name: string,
  namespace: string,
  bridge: string,
  index: number,
  ports: readonly number[],
): Promise<NetworkNode> {
  const link = `${namespace}v`;
  ip('netns', 'add', namespace);
  onTestFinished(() => quietly('netns', 'del', namespace));
  ip('link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
  onTestFinished(() => quietly('link', 'del', link));
  ip('link', 'set', link, 'master', bridge, 'up');
  ip('-n', namespace, 'addr', 'add', `${RANGE}.${index + 10}/24`, 'dev', 'eth0');
  for (const device of ['lo', 'eth0']) ip('-n', namespace, 'link', 'set', device, 'up');
  // Not `ip netns exec`: that takes the mounts apart, too.
  const inNamespace = ['nsenter', `--net=/run/netns/${namespace}`];
  await relay(inNamespace, '127.0.0.1', HUB, ports);
  return {
    prefix: [...inNamespace, 'unshare', '--uts', 'sh', '-c', 'hostname "$0" && exec "$@"', name],
    cut: () => ip('link', 'set', link, 'down'),
    restore: () => ip('link', 'set', link, 'up'),
  };
}

async function relay(prefix: readonly string[], from: string, to: string, ports: readonly number[]): Promise<void> {
  const command = [
    ...prefix,
    process.execPath,
    join(import.meta.dirname, 'relay-child.ts'),
    from,
    to,
    ...ports.map(String),
  ];
  const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'pipe', 'ignore'] });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  await Promise.race([
    once(child.stdout, 'data'),
    once(child, 'exit').then(() => Promise.reject(new Error(`the relay from ${from} to ${to} ended`))),
  ]);
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'], timeout: 10_000 });
}

function quietly(...args: string[]): void {
  try {
    ip(...args);
  } catch {
    // It was not there.
  }
}
