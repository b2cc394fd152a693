/** Numbers with their units, in one width per kind so that columns align. */
const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dateTime = new Intl.DateTimeFormat('sv-SE', {
  year: 'numeric',
  month: '2-digit',
  day: '2-digit',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
});

export const count = (value: number): string => whole.format(value);

/** `1 file`, `2 files`. */
export const counted = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

export function bytes(value: number | null): string {
  if (value === null) return 'unknown';
  for (const [unit, size] of [
    ['TB', 1e12],
    ['GB', 1e9],
    ['MB', 1e6],
    ['kB', 1e3],
  ] as const) {
    if (value >= size) return `${one.format(value / size)} ${unit}`;
  }
  return `${whole.format(value)} B`;
}

export function duration(seconds: number): string {
  if (seconds > 0 && seconds < 0.001) return `${whole.format(seconds * 1e6)} µs`;
  if (seconds < 1) return seconds === 0 ? '0 s' : `${whole.format(seconds * 1000)} ms`;
  if (seconds < 10) return `${one.format(seconds)} s`;
  if (seconds < 120) return `${whole.format(seconds)} s`;
  if (seconds < 7200) return `${whole.format(seconds / 60)} min`;
  if (seconds < 172_800) return `${whole.format(seconds / 3600)} h`;
  return `${whole.format(seconds / 86_400)} d`;
}

export const perSecond = (value: number): string =>
  `${value > 0 && value < 10 ? one.format(value) : whole.format(value)}/s`;
export const timeOfDay = (ms: number): string => clock.format(ms);
export const moment = (ms: number): string => dateTime.format(ms);
export const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
export const seconds = (value: number): string => `${two.format(value)} s`;

/** 0.1 -> `+10 %`. */
export function change(value: number | null): string {
  if (value === null) return 'no week before';
  return `${value >= 0 ? '+' : '−'}${whole.format(Math.abs(value) * 100)} %`;
}
