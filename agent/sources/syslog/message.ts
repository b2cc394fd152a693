/**
 * From one syslog message to the fields of a reading, by RFC 5424 or RFC 3164. Pure.
 *
 *   RFC 5424   <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [MSG]     `-` for what is not there
 *   RFC 3164   <PRI>Mmm dd hh:mm:ss HOSTNAME TAG[PID]: MSG     without year and zone: the year nearest to the arrival, this machine's zone
 *   neither    <PRI>MSG                                         what many devices send; hostname is the sender's address
 */
import { isUtf8 } from 'node:buffer';

export interface SyslogFields {
  readonly ts?: string;
  readonly facility: number;
  readonly severity: number;
  readonly hostname: string;
  readonly app?: string;
  readonly procId?: string;
  readonly msgId?: string;
  readonly structured?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly message: string;
}

const PRI = /^<(0|[1-9]\d{0,2})>/;
const PRI_MAX = 191;
const HEADER_5424 =
  /^1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) (?=[-[])/;
const HEADER_3164 = /^([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d) ([!-~]{1,255}) /;
const TAG_3164 = /^([!-9;-Z\\^-~]{1,48})(?:\[([!-Z\\^-~]{1,128})\])?: ?/;
/** NUL, LF, CR. */
const END_BYTES: readonly number[] = [0x00, 0x0a, 0x0d];
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const SD_ID = /^\[([!#-<>-\\^-~]{1,32})/;
const SD_PARAM = /^ ([!#-<>-\\^-~]{1,32})="((?:[^"\\\]]|\\[\s\S])*)"/;
const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

/** `sender`: the address it came from. */
export function parseSyslog(
  bytes: Buffer,
  sender: string,
  arrivalMs: number,
): SyslogFields | { readonly reason: string } {
  if (!isUtf8(bytes)) return { reason: 'the message is not UTF-8' };
  const text = bytes.toString('utf8', 0, textEnd(bytes));
  const pri = PRI.exec(text);
  const number = Number(pri?.[1] ?? NaN);
  if (pri === null || number > PRI_MAX) return { reason: 'the message does not begin with a priority, <0> to <191>' };
  const common = { facility: number >> 3, severity: number & 7 };
  const rest = text.slice(pri[0].length);
  return /^1 /.test(rest) ? parse5424(rest, common, sender) : parse3164(rest, common, sender, arrivalMs);
}

/** Senders end a message with line ends or NULs. By a loop: a pattern for it takes the square of a long run of NULs that does not stand at the end. */
function textEnd(bytes: Buffer): number {
  let end = bytes.length;
  while (end > 0 && END_BYTES.includes(bytes[end - 1] ?? -1)) end -= 1;
  return end;
}

type Common = Pick<SyslogFields, 'facility' | 'severity'>;

function parse5424(rest: string, common: Common, sender: string): SyslogFields | { reason: string } {
  const header = HEADER_5424.exec(rest);
  if (header === null) return { reason: 'the message has version 1 and no header of RFC 5424' };
  const [whole, ts = '-', hostname = '-', app = '-', procId = '-', msgId = '-'] = header;
  if (ts !== '-' && Number.isNaN(Date.parse(ts))) return { reason: `'${ts}' is no time` };
  const data = parseStructured(rest.slice(whole.length));
  if (data === null) return { reason: 'the structured data of the message is not that of RFC 5424' };
  return {
    ...(ts !== '-' && { ts }),
    ...common,
    hostname: hostname === '-' ? sender : hostname,
    ...(app !== '-' && { app }),
    ...(procId !== '-' && { procId }),
    ...(msgId !== '-' && { msgId }),
    ...(data.elements !== null && { structured: data.elements }),
    message: data.message.replace(/^\uFEFF/, ''),
  };
}

function parseStructured(
  text: string,
): { elements: Record<string, Record<string, string>> | null; message: string } | null {
  if (/^-(?: |$)/.test(text)) return { elements: null, message: text.slice(2) };
  const elements: Record<string, Record<string, string>> = Object.create(null) as Record<string, never>;
  let rest = text;
  for (let id = SD_ID.exec(rest); id !== null; id = SD_ID.exec(rest)) {
    const parameters: Record<string, string> = Object.create(null) as Record<string, never>;
    rest = rest.slice(id[0].length);
    for (let parameter = SD_PARAM.exec(rest); parameter !== null; parameter = SD_PARAM.exec(rest)) {
      const [whole, name = '', value = ''] = parameter;
      parameters[name] = value.replace(/\\(["\\\]])/g, '$1');
      rest = rest.slice(whole.length);
    }
    if (!rest.startsWith(']')) return null;
    rest = rest.slice(1);
    elements[id[1] ?? ''] = parameters;
  }
  if (Object.keys(elements).length === 0 || !/^(?: |$)/.test(rest)) return null;
  return { elements, message: rest.slice(1) };
}

function parse3164(rest: string, common: Common, sender: string, arrivalMs: number): SyslogFields {
  const header = HEADER_3164.exec(rest);
  const time = header === null ? null : timeOf(header.slice(1, 6), arrivalMs);
  if (header === null || time === null) return { ...common, hostname: sender, message: rest };
  const [whole, , , , , , hostname = sender] = header;
  const behind = rest.slice(whole.length);
  const tag = TAG_3164.exec(behind);
  return {
    ts: time,
    ...common,
    hostname,
    ...(tag?.[1] !== undefined && { app: tag[1] }),
    ...(tag?.[2] !== undefined && { procId: tag[2] }),
    message: behind.slice(tag?.[0].length ?? 0),
  };
}

/** In the year that brings it nearest to the arrival; null when there is no such time. */
function timeOf(parts: readonly string[], arrivalMs: number): string | null {
  const month = MONTHS.indexOf(parts[0] ?? '');
  const [day = 0, hour = 0, minute = 0, second = 0] = parts.slice(1).map(Number);
  if (month < 0 || day < 1 || hour > 23 || minute > 59 || second > 60) return null;
  const year = new Date(arrivalMs).getFullYear();
  const candidates = [year - 1, year, year + 1].map((each) => new Date(each, month, day, hour, minute, second));
  const real = candidates.filter((date) => date.getDate() === day || second === 60);
  // A sender's clock may be ahead, but not by much: what seems to come from the future is of last year.
  const past = real.filter((date) => date.getTime() <= arrivalMs + DAY_MS);
  const found = past.at(-1) ?? real[0];
  return found === undefined ? null : nearerOf(found, arrivalMs).toISOString();
}

/** When the clock is set back in autumn, it shows an hour twice. */
function nearerOf(first: Date, arrivalMs: number): Date {
  const second = new Date(first.getTime() + HOUR_MS);
  const isShownTwice = second.getHours() === first.getHours();
  const isNearer = Math.abs(second.getTime() - arrivalMs) < Math.abs(first.getTime() - arrivalMs);
  return isShownTwice && isNearer ? second : first;
}
