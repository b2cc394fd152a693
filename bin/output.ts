/** What every command shares: exit statuses, printing, and ending on a signal. */
import { readFileSync } from 'node:fs';
import { isCode, PenstockError } from '../lib/errors.ts';
import { formatBytes, formatDuration } from '../lib/units.ts';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_PARTLY = 3;
const PARENT_EVERY_MS = 1000;
/** A longer cell pads no other: one message of 30 KB would fill the screen with spaces in each row. */
const CELL_WIDTH_MAX = 100;

/** September of 2001: no duration is that long, and no instant of ours that early. */
const INSTANT_MS_MIN = 1e12;

/** The exit status for an error, exhaustive over what a command can throw. */
export function exitStatus(error: unknown): number {
  return isCode(error, 'usage', 'config') ? EXIT_USAGE : EXIT_FAILED;
}

export function version(): string {
  // The same file stands one folder up from bin/ in a checkout and two up from dist/bin/ in a package.
  for (const candidate of ['../package.json', '../../package.json']) {
    try {
      const parsed: unknown = JSON.parse(readFileSync(new URL(candidate, import.meta.url), 'utf8'));
      if (typeof parsed === 'object' && parsed !== null && 'version' in parsed) return String(parsed.version);
    } catch {
      // Not here: look one folder further up.
    }
  }
  return 'unknown';
}

/** JSON with bigints as numbers where they are exact, else as strings. */
export function toJson(value: unknown, space?: number): string {
  return JSON.stringify(
    value,
    (_key, part: unknown) => {
      if (typeof part !== 'bigint') return part;
      return part >= BigInt(Number.MIN_SAFE_INTEGER) && part <= BigInt(Number.MAX_SAFE_INTEGER)
        ? Number(part)
        : String(part);
    },
    space,
  );
}

/** With --json the object on one line; otherwise its keys (`tree.files` of what is within) and values, aligned. */
export function print(value: Readonly<Record<string, unknown>>, json: boolean | undefined): void {
  if (json === true) {
    process.stdout.write(`${toJson(value)}\n`);
    return;
  }
  const rows = flat(value, '');
  const width = widest(rows.map(([key]) => key));
  for (const [key, text] of rows) process.stdout.write(`${key.padEnd(width)}  ${text}\n`);
}

/** What could not be done as it should be: a line on stderr, and the exit status of what is done in part. */
export function sayPartly(what: string): void {
  process.stderr.write(`penstock: ${oneLine(what)}\n`);
  process.exitCode = EXIT_PARTLY;
}

/** For a copy, dump or backup that says of itself that it is not of one instant. */
export const NOT_OF_ONE_INSTANT =
  'consistent is false: what was changed meanwhile may be in it in part, and what was renamed twice or not at all';

/** What others wrote (an agent its status, a user a path) as one line in which a terminal finds no command of its own. */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_Control}]/gu, (character) => {
    const hex = character.charCodeAt(0).toString(16).padStart(4, '0');
    return `\\u${hex}`;
  });
}

/** There may be more of them than a call takes arguments. */
const widest = (cells: readonly string[]): number =>
  Math.min(
    CELL_WIDTH_MAX,
    cells.reduce((width, text) => Math.max(width, text.length), 0),
  );

function flat(value: object, prefix: string): (readonly [key: string, text: string])[] {
  return Object.entries(value).flatMap(([name, part]: [string, unknown]) => {
    const key = oneLine(`${prefix}${name}`);
    if (part === null || part === undefined) return [[key, '-']];
    if (part instanceof Date) return [[key, part.toISOString()]];
    if (typeof part === 'object' && !Array.isArray(part)) return flat(part, `${key}.`);
    const text = oneLine(typeof part === 'string' ? part : toJson(part));
    const inUnits = typeof part === 'number' ? readable(name, part) : undefined;
    return [[key, inUnits === undefined ? text : `${text} (${inUnits})`]];
  });
}

/** A number whose name says what it counts (`usedBytes`, `graceMs`, `createdMs`), beside it as a person reads it. */
function readable(name: string, value: number): string | undefined {
  if (/bytes(?:Max)?$|Size$/i.test(name) && value >= 1000) return formatBytes(value);
  if (!name.endsWith('Ms') || value < 1000) return undefined;
  return value >= INSTANT_MS_MIN ? new Date(value).toISOString() : formatDuration(value);
}

/** Rows as an aligned table, or as one JSON array. Of none, stdout has nothing without `json`: a count of lines is one of rows and a heading. */
export function printTable(rows: readonly Readonly<Record<string, unknown>>[], json: boolean | undefined): void {
  if (json === true) {
    process.stdout.write(`${toJson(rows)}\n`);
    return;
  }
  if (rows.length === 0) {
    process.stderr.write('penstock: nothing to show\n');
    return;
  }
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value: unknown): string => {
    if (value instanceof Date) return value.toISOString();
    return oneLine(typeof value === 'string' ? value : value === undefined || value === null ? '' : toJson(value));
  };
  const table = [columns.map(oneLine), ...rows.map((row) => columns.map((column) => cell(row[column])))];
  const widths = columns.map((_, i) => widest(table.map((cells) => cells[i] ?? '')));
  for (const cells of table) {
    const padded = cells.map((text, i) => text.padEnd(widths[i] ?? 0)).join('  ');
    process.stdout.write(`${padded.trimEnd()}\n`);
  }
}

/**
 * Aborted at the first SIGINT or SIGTERM; a second one ends the process at once. `withTerminal`: also at SIGHUP (the terminal was closed)
 * and, under `npm start`, when npm is gone however it went; a program that was started to outlive its terminal (nohup) goes on.
 */
export function untilSignal(options: { readonly withTerminal?: boolean } = {}): AbortSignal {
  const controller = new AbortController();
  const abort = (why: string): void => controller.abort(new PenstockError('aborted', why));
  const onSignal = (name: NodeJS.Signals): void => {
    if (controller.signal.aborted) process.exit(130);
    abort(`ended by ${name}`);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  // A child of `penstock demo` ends in order when the demo is gone, however it went.
  if (process.connected) process.on('disconnect', () => abort('the parent process is gone'));
  if (options.withTerminal === true) {
    if (!isHangupIgnored()) process.on('SIGHUP', () => abort('ended by SIGHUP'));
    if (process.env['npm_lifecycle_event'] !== undefined) {
      const parent = process.ppid;
      setInterval(() => {
        if (process.ppid !== parent) abort('npm is gone');
      }, PARENT_EVERY_MS).unref();
    }
  }
  return controller.signal;
}

/** Whether this process was started with SIGHUP ignored, as nohup does: a handler of ours would undo that. */
function isHangupIgnored(): boolean {
  try {
    const ignored = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    return ignored !== undefined && (BigInt(`0x${ignored}`) & 1n) === 1n;
  } catch {
    // Not Linux: a terminal that closes ends the program in order.
    return false;
  }
}

/** Sends progress to the parent (`penstock demo`), where there is one. */
export function reportToParent(status: unknown): void {
  if (process.send === undefined || !process.connected) return;
  // The parent may go away between the check and the write: its loss is handled by 'disconnect'.
  process.send(JSON.parse(toJson(status)), undefined, undefined, () => undefined);
}
