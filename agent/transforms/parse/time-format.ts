/**
 * Times in texts: RFC 3339, epochs, and formats as strptime(3) has them, to UTC with all digits that stood there. Pure but for the zones of ICU.
 *
 * A time without an offset is of the zone that is configured: where its clock shows it twice, the earlier one; where it skips it, as much
 * later. A date without a year is in the year that brings it nearest to the arrival, at most a day ahead of it.
 */
interface ParsedTime {
  /** RFC 3339, in UTC. */
  readonly text: string;
  readonly us: number;
}

/** null for what is no such time. */
type TimeParser = (text: string, arrivalMs: number) => ParsedTime | null;

interface Parts {
  year?: number;
  month?: number;
  day?: number;
  hour?: number;
  isPm?: boolean;
  minute?: number;
  second?: number;
  epochSeconds?: number;
  fraction?: string;
  offsetMs?: number;
}

type Directive = readonly [pattern: string, take?: (parts: Parts, text: string) => void];

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const MONTH = 'jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:tember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?'; // prettier-ignore
const OFFSET = 'Z|[+-]\\d\\d:?[0-5]\\d';
const month: Directive = [MONTH, (parts, text) => (parts.month = MONTHS.indexOf(text.slice(0, 3).toLowerCase()) + 1)];
const day: Directive = [' ?[1-9]|0[1-9]|[12]\\d|3[01]', (parts, text) => (parts.day = Number(text))];
const weekday: Directive = ['[a-z]{2,9}'];
const fraction: Directive = ['\\d{1,9}', (parts, text) => (parts.fraction = text)];

const DIRECTIVES: Readonly<Record<string, Directive>> = {
  Y: ['\\d{4}', (parts, text) => (parts.year = Number(text))],
  y: ['\\d\\d', (parts, text) => (parts.year = Number(text) + (Number(text) < 69 ? 2000 : 1900))],
  m: ['0?[1-9]|1[0-2]', (parts, text) => (parts.month = Number(text))],
  ...{ b: month, B: month, h: month, d: day, e: day, a: weekday, A: weekday, f: fraction, L: fraction },
  H: ['[01]?\\d|2[0-3]', (parts, text) => (parts.hour = Number(text))],
  I: ['0?[1-9]|1[0-2]', (parts, text) => (parts.hour = Number(text) % 12)],
  p: ['[ap]m', (parts, text) => (parts.isPm = text.toLowerCase() === 'pm')],
  M: ['[0-5]\\d', (parts, text) => (parts.minute = Number(text))],
  S: ['[0-5]\\d|60', (parts, text) => (parts.second = Number(text))],
  s: ['\\d{1,11}', (parts, text) => (parts.epochSeconds = Number(text))],
  z: [OFFSET, (parts, text) => (parts.offsetMs = offsetOf(text))],
  '%': ['%'],
};
const SHORT: Readonly<Record<string, string>> = { T: '%H:%M:%S', R: '%H:%M', F: '%Y-%m-%d', D: '%m/%d/%y' };
const EPOCHS: Readonly<Record<string, number>> = { epoch: 0, epochMs: 3, epochUs: 6, epochNs: 9 };
const RFC3339 =
  /^(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:[.,](\d{1,9}))? ?(Z|z|[+-]\d\d:?[0-5]\d)?$/;
const DAY_MS = 86_400_000;
/** Clocks are changed at its ends. */
const QUARTER_MS = 900_000;

/** What is wrong with a format or its zone, and which of them; null for nothing. */
export function timeFormatProblem(
  format: string,
  zone: string | undefined,
): { readonly key: 'time' | 'zone'; readonly message: string } | null {
  if (zone !== undefined && !isZone(zone)) {
    return { key: 'zone', message: `'${zone}' is no time zone: expected UTC, or as Europe/Berlin` };
  }
  if (format === 'rfc3339' || Object.hasOwn(EPOCHS, format)) return null;
  const time = (message: string): { key: 'time'; message: string } => ({ key: 'time', message });
  if (!format.includes('%')) {
    return time(`expected rfc3339, ${Object.keys(EPOCHS).join(', ')}, or as strptime has it: '%Y-%m-%d %H:%M:%S'`);
  }
  const letters = lettersOf(format);
  const unknown = letters.find((letter) => !(letter in DIRECTIVES));
  if (unknown !== undefined) return time(`%${unknown} is not known: expected ${knownDirectives()}`);
  const has = (...any: string[]): boolean => any.some((letter) => letters.includes(letter));
  if (has('s')) return null;
  if (!has('m', 'b', 'B', 'h') || !has('d', 'e')) return time('expected a month and a day in it, or %s');
  if (has('I') !== has('p')) return time('%I and %p say an hour together');
  if (has('z') || zone !== undefined) return null;
  return { key: 'zone', message: 'the format has no %z: expected the zone of its times, as UTC or Europe/Berlin' };
}

/** Of a format that `timeFormatProblem` has nothing against. */
export function timeParser(format: string, zone: string | undefined): TimeParser {
  const offset = zone === undefined ? null : offsetsOf(zone);
  if (format === 'rfc3339') return (text) => rfc3339(text, offset);
  const digits = Object.hasOwn(EPOCHS, format) ? EPOCHS[format] : undefined;
  if (digits !== undefined) return (text) => epochTime(text, digits);
  const { pattern, takes } = compiled(format);
  return (text, arrivalMs) => {
    const match = pattern.exec(text);
    if (match === null) return null;
    const parts: Parts = {};
    takes.forEach((take, index) => take?.(parts, match[index + 1] ?? ''));
    return timeOf(parts, offset, arrivalMs);
  };
}

function knownDirectives(): string {
  return [...Object.keys(DIRECTIVES), ...Object.keys(SHORT)].map((letter) => `%${letter}`).join(' ');
}

function spelledOut(format: string): string {
  return format.replace(/%([TRFD])/g, (_, letter: string) => SHORT[letter] ?? '');
}

function lettersOf(format: string): string[] {
  return [...spelledOut(format).matchAll(/%(.?)/gs)].map(([, letter = '']) => letter);
}

function compiled(format: string): { pattern: RegExp; takes: (Directive[1] | undefined)[] } {
  const takes: (Directive[1] | undefined)[] = [];
  const source = spelledOut(format).replace(/%(.)|\s+|[^%\s]/gs, (piece, letter?: string) => {
    if (letter === undefined) return piece.trim() === '' ? '\\s+' : piece.replace(/[\\^$.*+?()[\]{}|]/, '\\$&');
    const [pattern = '', take] = DIRECTIVES[letter] ?? [];
    takes.push(take);
    return `(${pattern})`;
  });
  return { pattern: new RegExp(`^${source}$`, 'i'), takes };
}

function timeOf(parts: Parts, offset: Offsets | null, arrivalMs: number): ParsedTime | null {
  const {
    epochSeconds,
    year,
    month: ofYear = 1,
    day: ofMonth = 1,
    minute = 0,
    second = 0,
    fraction: digits = '',
  } = parts;
  if (epochSeconds !== undefined) return made(epochSeconds * 1000, digits);
  const hour = (parts.hour ?? 0) + (parts.isPm === true ? 12 : 0);
  const at = (inYear: number): number | null => {
    const midnightMs = Date.UTC(inYear, ofYear - 1, ofMonth);
    if (new Date(midnightMs).getUTCDate() !== ofMonth) return null;
    const localMs = midnightMs + ((hour * 60 + minute) * 60 + second) * 1000;
    return localMs - (parts.offsetMs ?? offset?.(localMs) ?? 0);
  };
  // `Date.UTC` takes those for years of the last century; 0001 is what a time that was never set looks like.
  if (year !== undefined) return year < 100 ? null : made(at(year), digits);
  const thisYear = new Date(arrivalMs).getUTCFullYear();
  const candidates = [thisYear - 1, thisYear, thisYear + 1].map(at).filter((ms) => ms !== null);
  return made(candidates.findLast((ms) => ms <= arrivalMs + DAY_MS) ?? candidates[0] ?? null, digits);
}

function rfc3339(text: string, offset: Offsets | null): ParsedTime | null {
  const match = RFC3339.exec(text);
  if (match === null || (match[8] === undefined && offset === null)) return null;
  const [, year, ofYear, ofMonth, hour, minute, second] = match.map(Number);
  const offsetMs = match[8] === undefined ? undefined : offsetOf(match[8]);
  return timeOf(
    {
      ...{ year: year ?? 0, month: ofYear ?? 0, day: ofMonth ?? 0, hour: hour ?? 0, minute: minute ?? 0 },
      ...{ second: second ?? 0, fraction: match[7] ?? '' },
      ...(offsetMs !== undefined && { offsetMs }),
    },
    offset,
    0,
  );
}

/** A number of units of which 10^`digits` are a second. */
function epochTime(text: string, digits: number): ParsedTime | null {
  const [, whole, parts = ''] = /^(\d{1,20})(?:\.(\d{1,9}))?$/.exec(text) ?? [];
  if (whole === undefined) return null;
  const units = whole.padStart(digits + 1, '0');
  const fractionDigits = (units.slice(units.length - digits) + parts).slice(0, 9);
  const seconds = Number(units.slice(0, units.length - digits));
  return made(seconds * 1000, digits === 0 ? parts : fractionDigits);
}

/** null where its microseconds are no whole number that a double holds (behind the year 2255), as those of a reading have to be. */
function made(secondsMs: number | null, digits: string): ParsedTime | null {
  const us = (secondsMs ?? NaN) * 1000 + Number(digits.slice(0, 6).padEnd(6, '0'));
  if (secondsMs === null || !Number.isSafeInteger(us)) return null;
  const second = new Date(secondsMs).toISOString().slice(0, 19);
  return { text: `${second}${digits === '' ? '' : `.${digits}`}Z`, us };
}

function offsetOf(text: string): number {
  const [, sign, hours, minutes] = /^([+-])(\d\d):?(\d\d)$/.exec(text) ?? [];
  return (sign === '-' ? -1 : 1) * (Number(hours ?? 0) * 60 + Number(minutes ?? 0)) * 60_000;
}

/** What a local time, in ms as if it were UTC, is ahead of UTC. */
type Offsets = (localMs: number) => number;

function isZone(zone: string): boolean {
  try {
    offsetsOf(zone)(0);
    return true;
  } catch {
    return false;
  }
}

/** Throws a RangeError for what is no zone. */
function offsetsOf(zone: string): Offsets {
  const format = new Intl.DateTimeFormat('en', { timeZone: zone, timeZoneName: 'longOffset' });
  const offsetAt = (ms: number): number =>
    offsetOf(
      format
        .formatToParts(ms)
        .find(({ type }) => type === 'timeZoneName')
        ?.value.slice('GMT'.length) ?? '',
    );
  // Logs go on in time: the zone is asked once for each quarter of an hour.
  let quarter = NaN;
  let offsetMs = 0;
  return (localMs) => {
    const its = Math.floor(localMs / QUARTER_MS);
    if (its === quarter) return offsetMs;
    const [before, after] = [offsetAt(localMs - DAY_MS), offsetAt(localMs + DAY_MS)];
    const isAfter = offsetAt(localMs - before) !== before && offsetAt(localMs - after) === after;
    quarter = its;
    offsetMs = isAfter ? after : before;
    return offsetMs;
  };
}
