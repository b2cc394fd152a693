/** The modules of the tests, made by the AssemblyScript compiler. */
import { execFile } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { HANG_MS } from './hang.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const examples = join(root, 'deploy/examples/wasm');
export const smoothModule = join(examples, 'smooth.wasm');

/** A module that does with each reading what the reading's field `do` says, and counts them in its state. */
const BEHAVING = `
import { answer, append, Batch, begin, change, finish, keep, refuse } from './penstock';
import { field, numberField, textField } from './json';
export { penstock_abi, penstock_alloc } from './penstock';

let seen: u32 = 0;

export function penstock_init(at: usize, bytes: u32): u64 {
  const wanted = textField(at, bytes, 'do');
  if (wanted == 'loop') while (true) seen++;
  if (wanted == 'trap') unreachable();
  return wanted == 'refuse' ? answer('not today') : 0;
}

export function penstock_process(at: usize, bytes: u32): u64 {
  begin();
  const batch = new Batch(at);
  while (batch.next()) {
    const index = batch.index;
    const what = textField(batch.value, batch.bytes, 'do');
    seen++;
    if (what == 'loop') while (true) seen++;
    if (what == 'trap') unreachable();
    if (what == 'grow') {
      while (memory.grow(1) >= 0) seen++;
      unreachable();
    }
    if (what == 'pages') {
      while (memory.grow(1) >= 0) seen++;
      text(index, '{"pages":' + memory.size().toString() + '}');
    }
    if (what == 'stack') seen += deep(seen);
    if (what == 'outside') return (<u64>0xfffffff0 << 32) | 100;
    if (what == 'cut') return (changetype<u64>(finish()) & ~(<u64>0xffffffff)) | 7;
    if (what == 'backwards') {
      keep(1);
      keep(0);
    }
    if (what == 'many') for (let n = 0; n < 200000; n++) keep(index);
    if (what == 'other') keep(12345);
    if (what == 'keep') keep(index);
    if (what == 'twice') {
      keep(index);
      keep(index);
      text(index, '{"made":' + seen.toString() + '}');
    }
    if (what == 'text') text(index, field(batch.value, batch.bytes, 'text'));
    if (what == 'latin1') store<u8>(change(index, 1), 0xe9);
    if (what == 'refuse') refuse(index, 'schlecht für mich');
    if (what == 'count') text(index, '{"sensor":"' + batch.sensor + '","seen":' + seen.toString() + '}');
    if (what == 'state') hold = <u32>numberField(batch.value, batch.bytes, 'bytes');
  }
  return finish();
}

let hold: u32 = 0;

function deep(n: u32): u32 {
  return n == 0xffffffff ? 0 : deep(n + 1) + 1;
}

function text(index: u32, value: string): void {
  String.UTF8.encodeUnsafe(changetype<usize>(value), value.length, change(index, String.UTF8.byteLength(value)));
}

export function penstock_save(): u64 {
  begin();
  store<u32>(append(4), seen);
  if (hold > 0) append(hold);
  return finish();
}

export function penstock_restore(at: usize, bytes: u32): u32 {
  if (bytes != 4) return 1;
  seen = load<u32>(at);
  return 0;
}
`;

/** Compiles what the build script of package.json names, with its flags. */
export async function buildExample(outFile: string): Promise<void> {
  const scripts = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> })
    .scripts;
  const [, source = '', , , ...flags] = (scripts['build:wasm-example'] ?? '').split(' ');
  await compile(root, source, outFile, flags);
}

export async function buildBehaving(dir: string): Promise<string> {
  for (const name of ['penstock.ts', 'json.ts']) copyFileSync(join(examples, name), join(dir, name));
  writeFileSync(join(dir, 'behaving.ts'), BEHAVING);
  await compile(dir, 'behaving.ts', 'behaving.wasm', ['--optimize', '--use', 'abort=']);
  return join(dir, 'behaving.wasm');
}

async function compile(cwd: string, source: string, outFile: string, flags: readonly string[]): Promise<void> {
  const asc = join(root, 'node_modules/assemblyscript/bin/asc.js');
  await promisify(execFile)(process.execPath, [asc, source, '--outFile', outFile, ...flags], { cwd, timeout: HANG_MS });
}
