/** Event times: epoch milliseconds, epoch microseconds or RFC 3339, as microseconds since the epoch. */

/** From here a number counts microseconds: as milliseconds it would be the year 5138, as microseconds it is March 1973. */
const MICROS_FROM = 1e14;
/** Directory names and Iceberg hours are made for 1970 to 9999; what lies outside is a wrong unit. */
const MICROS_MAX = 253_402_300_800_000_000;
const RFC_3339 = /^(\d{4}-\d\d-(\d\d))[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)$/;

export const MICROS_PER_HOUR = 3_600_000_000;

export function isEventTime(micros: number): boolean {
  return micros >= 0 && micros < MICROS_MAX;
}

/** A time whose unit is known, from a typed value. NaN: it does not fit. */
export class EpochMicros {
  readonly micros: number;

  constructor(micros: number) {
    this.micros = micros;
  }
}

/** NaN for anything that is not such a time. Fractions of a microsecond are cut off. */
export function toEpochMicros(value: unknown): number {
  if (typeof value === 'number') {
    const micros = Math.abs(value) >= MICROS_FROM ? Math.trunc(value) : Math.round(value * 1000);
    // Above 2^53 (the year 2255) a double holds every other microsecond: still exact to 2 us.
    return Number.isFinite(micros) ? micros : NaN;
  }
  if (value instanceof EpochMicros) return value.micros;
  if (typeof value !== 'string') return NaN;
  const match = RFC_3339.exec(value);
  if (match === null) return NaN;
  const [, date = '', day = '', time = '', fraction = '', zone = ''] = match;
  const ms = Date.parse(`${date}T${time}${zone.toUpperCase()}`);
  // Date.parse makes 2 March of 30 February.
  if (new Date(`${date}T00:00:00Z`).getUTCDate() !== Number(day)) return NaN;
  return ms * 1000 + Number(fraction.padEnd(6, '0').slice(0, 6));
}
