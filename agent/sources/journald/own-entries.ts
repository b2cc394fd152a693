/**
 * Which entries the agent wrote itself: a line of its log that became a reading could give another line. What systemd says of it (that it ended, and why) is not its own.
 *
 * It is known by the service in whose cgroup it runs (a person's session, in which it may run too, has other programs), and in a container whose runtime
 * logs to the journal (Podman, Docker's driver `journald`) by that container, whose id is the name of the machine there. Anyone may write that id: it counts
 * from root only, as whom the runtime writes, so that no user hides what he does.
 */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import type { Entry } from './export-format.ts';

export const OWN_FIELDS = ['_SYSTEMD_UNIT', '_SYSTEMD_USER_UNIT', 'CONTAINER_ID', '_UID'] as const;
const CONTAINER_ID = /^[0-9a-f]{12}$/;
/**
 * cgroups(7): `0::PATH` in version 2, `1:name=systemd:PATH` in version 1. Only where the path ends so: below the service of a container runtime lie
 * containers.
 */
const SERVICE = /^(?:0:|\d+:name=systemd):(?:.*(\/user@\d+\.service))?.*\/([^/\n]+\.service)$/m;

/** Written as FIELD=value; of a list, all must be met. */
export type Match = string | readonly string[];

/** What own entries have, and no others. */
export async function ownMatches(): Promise<Match[]> {
  return ownMatchesOf(await readFile('/proc/self/cgroup', 'utf8').catch(() => ''), hostname());
}

/** The same of what /proc/PID/cgroup holds. */
export function ownMatchesOf(cgroups: string, machine: string): Match[] {
  const [, manager, unit] = SERVICE.exec(cgroups) ?? [];
  return [
    ...(unit === undefined ? [] : [`${manager === undefined ? '_SYSTEMD_UNIT' : '_SYSTEMD_USER_UNIT'}=${unit}`]),
    ...(CONTAINER_ID.test(machine) ? [[`CONTAINER_ID=${machine}`, '_UID=0']] : []),
  ];
}

/** Whether it meets one of them. */
export function hasAnyOf(entry: Entry, matches: readonly Match[]): boolean {
  return matches.some((match) => [match].flat().every((each) => hasValue(entry, each)));
}

function hasValue({ fields }: Entry, match: string): boolean {
  const equals = match.indexOf('=');
  const expected = Buffer.from(match.slice(equals + 1));
  return fields.get(match.slice(0, equals))?.some(({ bytes }) => bytes.equals(expected)) ?? false;
}
