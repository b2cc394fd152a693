/**
 * Which entries the agent wrote itself: a line of its log that became a reading could give another line. What systemd says of it (that it ended, and why) is not its own.
 *
 * It is known by the service in whose cgroup it runs (a person's session, in which it may run too, has other programs), and in a container whose runtime
 * logs to the journal (Podman, Docker's driver `journald`) by that container, whose id is the name of the machine there.
 */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import type { Entry } from './export-format.ts';

export const OWN_FIELDS = ['_SYSTEMD_UNIT', '_SYSTEMD_USER_UNIT', 'CONTAINER_ID'] as const;
const CONTAINER_ID = /^[0-9a-f]{12}$/;
/**
 * cgroups(7): `0::PATH` in version 2, `1:name=systemd:PATH` in version 1. Only where the path ends so: below the service of a container runtime lie
 * containers.
 */
const SERVICE = /^(?:0:|\d+:name=systemd):(?:.*(\/user@\d+\.service))?.*\/([^/\n]+\.service)$/m;

/** What own entries have, and no others, as FIELD=value. */
export async function ownMatches(): Promise<string[]> {
  return ownMatchesOf(await readFile('/proc/self/cgroup', 'utf8').catch(() => ''), hostname());
}

/** The same of what /proc/PID/cgroup holds. */
export function ownMatchesOf(cgroups: string, machine: string): string[] {
  const [, manager, unit] = SERVICE.exec(cgroups) ?? [];
  return [
    ...(unit === undefined ? [] : [`${manager === undefined ? '_SYSTEMD_UNIT' : '_SYSTEMD_USER_UNIT'}=${unit}`]),
    ...(CONTAINER_ID.test(machine) ? [`CONTAINER_ID=${machine}`] : []),
  ];
}

/** Whether it has one of these values, each written as FIELD=value. */
export function hasAnyOf({ fields }: Entry, matches: readonly string[]): boolean {
  return matches.some((match) => {
    const equals = match.indexOf('=');
    const expected = Buffer.from(match.slice(equals + 1));
    return fields.get(match.slice(0, equals))?.some(({ bytes }) => bytes.equals(expected)) ?? false;
  });
}
