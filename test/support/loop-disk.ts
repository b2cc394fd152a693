/**
 * A disk of its own for a test: ext4 in a file, behind a loop device. What the file holds is what a power cut would leave, so a copy of it that
 * is mounted is the machine after one. Needs root.
 */
import {
  accessSync,
  closeSync,
  constants,
  copyFileSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { spawnSync } from 'node:child_process';
import { basename, dirname, join } from 'node:path';
import { onTestFinished } from 'vitest';
import { HANG_MS } from './hang.ts';
import { tempDir } from './temp.ts';

export const isRoot = process.platform === 'linux' && process.getuid?.() === 0;
const EXT4 = '/sys/fs/ext4';
/** The kernel lets us have an ext4 find an error in itself (`failReadOnly`): not in a container whose /sys is read-only. */
export const canFailDisks = isRoot && isWritable(EXT4);

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function run(command: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { timeout: HANG_MS, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

export class LoopDisk {
  readonly mountpoint: string;
  readonly #image: string;

  private constructor(image: string) {
    this.#image = image;
    this.mountpoint = join(dirname(image), 'disk');
    mkdirSync(this.mountpoint);
    run('mount', '-o', 'loop', image, this.mountpoint);
    onTestFinished(() => void spawnSync('umount', ['-l', this.mountpoint], { timeout: HANG_MS }));
  }

  /** Its blocks lie in `folder`, which may itself be too small for them. */
  static make(folder: string): LoopDisk {
    const image = join(folder, 'image');
    writeFileSync(image, '');
    truncateSync(image, 48 * 2 ** 20);
    run('mkfs.ext4', '-q', '-F', '-b', '1024', '-J', 'size=1', '-N', '64', image);
    return new LoopDisk(image);
  }

  /** An error that ext4 finds in itself, as behind a failed write: it makes itself read-only, as it is mounted on most machines. */
  failReadOnly(): void {
    run('mount', '-o', 'remount,errors=remount-ro', this.mountpoint);
    const [device = ''] = /^\S+(?=\n)/.exec(run('findmnt', '-n', '-o', 'SOURCE', this.mountpoint)) ?? [];
    writeFileSync(join(EXT4, basename(device), 'trigger_fs_error'), '1');
  }

  /** Its place is what was there before, while files are open on it. */
  unmount(): void {
    run('umount', '-l', this.mountpoint);
  }

  /** Goes round its journal once, so that the journal has all its blocks: what may fail from here on are those of files. */
  fillJournal(): void {
    const path = join(this.mountpoint, 'turn');
    for (let turn = 0; turn < 500; turn += 1) {
      const fd = openSync(path, 'w');
      fsyncSync(fd);
      closeSync(fd);
      rmSync(path);
    }
  }

  /** The disk as the machine would find it if the power were cut now. */
  afterPowerCut(): LoopDisk {
    const image = join(tempDir('loop'), 'image');
    copyFileSync(this.#image, image);
    return new LoopDisk(image);
  }
}

/** A folder in memory that holds so many bytes. */
export function memoryFolder(size: string): string {
  const folder = tempDir('tmpfs');
  run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder);
  onTestFinished(() => void spawnSync('umount', ['-l', folder], { timeout: HANG_MS }));
  return folder;
}

/** Shows `folder` at another place; returns what ends that, also while files are open there (`umount -l`). */
export function mountOver(folder: string, place: string): () => void {
  run('mount', '--bind', folder, place);
  const unmount = (): void => void spawnSync('umount', ['-l', place], { timeout: HANG_MS });
  onTestFinished(unmount);
  return unmount;
}

/** Of the files that this process has open: nobody can check such a disk, or mount it anew. */
export function openDevices(): number[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [fstatSync(Number(fd)).dev];
    } catch {
      // That of the list itself.
      return [];
    }
  });
}
