import { PenstockError } from './errors.ts';

/** MB = 10^6, MiB = 2^20, as everywhere in Penstock. */
const BYTE_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  kB: 1e3,
  KB: 1e3,
  KiB: 2 ** 10,
  K: 2 ** 10,
  MB: 1e6,
  MiB: 2 ** 20,
  M: 2 ** 20,
  GB: 1e9,
  GiB: 2 ** 30,
  G: 2 ** 30,
  TB: 1e12,
  TiB: 2 ** 40,
  T: 2 ** 40,
};
const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3 };

/** `10GB`, `128MiB`, `4096` -> bytes (a whole number). Throws `config`. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim());
  const unit = match === null ? undefined : BYTE_UNITS[match[2] ?? ''];
  const bytes = match === null || unit === undefined ? NaN : Math.round(Number(match[1]) * unit);
  if (!Number.isSafeInteger(bytes)) {
    throw new PenstockError(
      'config',
      `'${text}' is not a size: expected a number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, as 128MB`,
    );
  }
  return bytes;
}

/** `60s`, `10m`, `24h`, `7d`, `250ms` -> milliseconds. Throws `config`. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/.exec(text.trim());
  const unit = match === null ? undefined : DURATION_UNITS[match[2] ?? ''];
  const ms = match === null || unit === undefined ? NaN : Math.round(Number(match[1]) * unit);
  if (!Number.isSafeInteger(ms)) {
    throw new PenstockError('config', `'${text}' is not a duration: expected a number with ms, s, m, h or d, as 60s`);
  }
  return ms;
}

/** 86400000 -> `1d`, 5400000 -> `90m`: as `parseDuration` reads it, in the largest unit that it is a whole number of. */
export function formatDuration(ms: number): string {
  for (const [unit, size] of Object.entries(DURATION_UNITS).toReversed()) {
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${ms}ms`;
}

/** 1234567 -> `1.2 MB`. */
export function formatBytes(bytes: number): string {
  for (const [unit, size] of [
    ['TB', 1e12],
    ['GB', 1e9],
    ['MB', 1e6],
    ['kB', 1e3],
  ] as const) {
    if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

/** `1 file`, `2 files`, `12,345 files`: for sentences that people read. */
export function counted(count: number | bigint, noun: string): string {
  return `${count.toLocaleString('en')} ${noun}${Number(count) === 1 ? '' : 's'}`;
}
