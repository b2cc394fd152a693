/**
 * Finds the real services that tests run against (installed by `bin/install.mjs --services`). A missing one is a visible skip with its
 * name on a laptop, and a failure where CI=true.
 */
import { accessSync, constants, existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';

export type Service =
  | 'redis-server'
  | 'versitygw'
  | 'pjdfstest'
  | 'kafka'
  | 'mosquitto'
  | 'journalctl'
  | 'chromium'
  | 'csi-sanity'
  | 'helm'
  | 'kubeconform'
  | 'k8s-schemas'
  | 'promtool'
  | 'schemathesis'
  | 'hadolint'
  | 'apicurio'
  | 'iceberg-rest'
  | 'node-opcua'
  | 'kubernetes'
  | 'csi-sidecars'
  | 'custom-resources'
  | 'spark-python'
  | 'spark-iceberg'
  | 'iceberg-aws'
  | 'pyiceberg';

const cache = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'penstock', 'services');

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The absolute path of a service's binary (`kafka`, `apicurio`, `iceberg-rest`: the folder of its jars; `schemathesis`, `node-opcua`, `kubernetes*`, `csi-sidecars`, `spark-*`, `iceberg-aws`, `pyiceberg`: a folder), or undefined. */
export function findService(name: Service): string | undefined {
  // Debian keeps servers where only root's PATH has them.
  const folders = [cache, ...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin'];
  return folders.map((folder) => join(folder, name)).find(executable);
}

/**
 * The reason to skip what needs these services, or false when all are there: `describe.skipIf(missing('versitygw'))`. Where CI=true
 * nothing is skipped: `requireService` then fails by name.
 */
export function missing(...names: Service[]): boolean {
  const absent = names.filter((name) => findService(name) === undefined);
  if (absent.length > 0 && process.env['CI'] !== 'true') {
    console.warn(`skipped: ${absent.join(', ')} not found (node bin/install.mjs --services installs it)`);
    return true;
  }
  return false;
}

/** Throws by name when the service is not there. */
export function requireService(name: Service): string {
  const path = findService(name);
  if (path === undefined) throw new Error(`${name} is missing: run node bin/install.mjs --services`);
  return path;
}

/** True where a real mount is possible here: root and /dev/fuse. A visible skip elsewhere; where CI=true the tests run and fail. */
export function cannotMount(): boolean {
  const possible = process.platform === 'linux' && process.getuid?.() === 0 && existsSync('/dev/fuse');
  if (!possible && process.env['CI'] !== 'true') {
    console.warn('skipped: mounting needs root and /dev/fuse');
    return true;
  }
  return false;
}
