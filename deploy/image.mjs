// Makes the folder that the image holds: `node deploy/image.mjs DEST [PACKAGE.tgz]`, in a checkout whose packages are installed. Plain JavaScript, because the
// Dockerfile and the test call it with whatever Node they have.
// DEST gets the files of the npm package (compiled programs, no sources, no tests) and the locked production dependencies, without
// the Node that the packages bring for laptops: the image has its own.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [destination, given] = process.argv.slice(2);
if (destination === undefined) {
  console.error('usage: node deploy/image.mjs DEST [PACKAGE.tgz]');
  process.exit(2);
}
const dest = resolve(destination);
const npm = (args, cwd) => execFileSync('npm', args, { cwd, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });

mkdirSync(dest, { recursive: true });
const packed = mkdtempSync(join(tmpdir(), 'penstock-pack-'));
try {
  const pack = () => JSON.parse(npm(['pack', '--json', '--silent', '--pack-destination', packed], root))[0].filename;
  const archive = given === undefined ? join(packed, pack()) : resolve(given);
  execFileSync('tar', ['-xzf', archive, '-C', dest, '--strip-components=1']);
} finally {
  rmSync(packed, { recursive: true, force: true });
}
cpSync(join(root, 'package-lock.json'), join(dest, 'package-lock.json'));
npm(['ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline'], dest);
for (const name of readdirSync(join(dest, 'node_modules'))) {
  if (/^node-(linux|bin)-/.test(name)) rmSync(join(dest, 'node_modules', name), { recursive: true });
}
rmSync(join(dest, 'node_modules', '.bin'), { recursive: true, force: true });
