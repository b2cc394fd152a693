/**
 * What journalctl is asked for. Pure.
 *
 * - `--merge`, because `--follow` without it means this boot only (systemd 252): what was written between the stored place and a restart of the machine would be
 *   passed over. It also asks for no machine id, which a container has not; entries of other machines that lie there are read, too.
 * - `--cursor` and not `--after-cursor`, which passes over an entry where that of the cursor is gone (systemd 252): the first entry tells whether it is.
 */
import { SEVERITIES, type JournaldSourceConfig } from './config.ts';
import { OWN_FIELDS } from './own-entries.ts';
import { ENTRY_FIELDS } from './reading.ts';

/** systemd.unit(5) */
const UNIT_TYPE = /\.(?:service|socket|device|mount|automount|swap|target|path|timer|slice|scope)$/;
/** SD_MESSAGE_COREDUMP (sd-messages.h) */
const COREDUMP = 'fc2e22bc6ee647b6b90729ab34a250b1';

export interface Place {
  /** The entry to begin with. */
  readonly cursor: string | null;
  /** Only entries of this boot. */
  readonly boot: string | null;
}

/** For entries as they are written, from a place on. */
export function followArguments(config: JournaldSourceConfig, directory: string | null, place: Place): string[] {
  const { fields, exclude } = config;
  const names = [...ENTRY_FIELDS, ...OWN_FIELDS, ...exclude.map(nameOf), ...(fields === 'all' ? [] : fields)];
  return [
    ...commonArguments(directory),
    ...['--follow', '--no-tail'],
    ...(fields === 'all' ? [] : [`--output-fields=${[...new Set(names)].join(',')}`]),
    ...severityArguments(config),
    ...(place.cursor === null ? [] : [`--cursor=${place.cursor}`]),
    ...matchArguments(config, place.boot),
  ];
}

/** For one entry of all that there are: the first one from the cursor on, or the last one. */
export function lookArguments(directory: string | null, cursor: string | null): string[] {
  return [
    ...commonArguments(directory),
    ...['--lines=1', '--output-fields=PRIORITY'],
    ...(cursor === null ? [] : [`--cursor=${cursor}`]),
  ];
}

/** For all that there is of a boot. */
export function bootArguments(directory: string | null, boot: string): string[] {
  return [...commonArguments(directory), '--output-fields=PRIORITY', '--', `_BOOT_ID=${boot}`];
}

/** For what there is of what is configured, from that entry on: it, if it is of that, and the next one. */
export function nextArguments(config: JournaldSourceConfig, directory: string | null, cursor: string): string[] {
  return [
    ...commonArguments(directory),
    ...['--lines=2', '--output-fields=PRIORITY', `--cursor=${cursor}`],
    ...severityArguments(config),
    ...matchArguments(config, null),
  ];
}

/** For no entry, but for what journalctl has to say: with the export format it keeps to itself that it may not read everything (systemd 252). */
export function checkArguments(directory: string | null): string[] {
  return [...placeArguments(directory), '--lines=0', '--output=short'];
}

function nameOf(match: string): string {
  return match.slice(0, match.indexOf('='));
}

function commonArguments(directory: string | null): string[] {
  return [...placeArguments(directory), '--output=export', '--all'];
}

function placeArguments(directory: string | null): string[] {
  return ['--merge', '--no-pager', ...(directory === null ? [] : [`--directory=${directory}`])];
}

function severityArguments({ severity }: JournaldSourceConfig): string[] {
  return severity === undefined ? [] : [`--priority=${SEVERITIES.indexOf(severity)}`];
}

/** Alternatives are divided by `+`; within one, matches of several fields must all be met. */
function matchArguments({ units, identifiers, matches }: JournaldSourceConfig, boot: string | null): string[] {
  const alternatives = [
    ...units.flatMap(unitMatches),
    ...identifiers.map((identifier) => [`SYSLOG_IDENTIFIER=${identifier}`]),
    ...matches.map((match) => [match].flat()),
  ];
  const ofBoot = boot === null ? [] : [`_BOOT_ID=${boot}`];
  const limited = alternatives.length === 0 ? [ofBoot] : alternatives.map((each) => [...each, ...ofBoot]);
  return ['--', ...limited.flatMap((each, index) => (index === 0 ? each : ['+', ...each]))];
}

/** What `journalctl --unit` looks for: what it wrote, what systemd says of it, and its core dumps. That option cannot be one of several alternatives. */
function unitMatches(name: string): string[][] {
  const unit = UNIT_TYPE.test(name) ? name : `${name}.service`;
  return [
    [`_SYSTEMD_UNIT=${unit}`],
    ['_PID=1', `UNIT=${unit}`],
    ['_UID=0', `OBJECT_SYSTEMD_UNIT=${unit}`],
    [`MESSAGE_ID=${COREDUMP}`, '_UID=0', `COREDUMP_UNIT=${unit}`],
    ...(unit.endsWith('.slice') ? [[`_SYSTEMD_SLICE=${unit}`]] : []),
  ];
}
