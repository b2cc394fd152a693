/** The screen of `penstock agent top`: rates from two statuses of a running agent. */
import type { AgentStatus } from '../../agent/status.ts';
import { formatBytes } from '../../lib/units.ts';
import { perSecond, type Timed } from '../watch.ts';

type TimedStatus = Timed<AgentStatus>;

const SECONDS_PER_DAY = 86_400;

/** What `--json` prints once a second, and the screen is drawn from. */
export function ratesOf(before: TimedStatus, now: TimedStatus): Readonly<Record<string, unknown>> {
  const rate = (count: (of: AgentStatus) => number | undefined): number =>
    Math.round(10 * perSecond(before, now, count)) / 10;
  const { agent, spool, uplink, rules, sampledOut, quarantined, uplinkProblem, controlProblem } = now.value;
  return {
    agent,
    sources: now.value.sources.map(({ name, isHeldUp, problem, remark }) => ({
      name,
      readingsPerSecond: rate(({ sources }) => sources.find((source) => source.name === name)?.readings),
      heldUp: isHeldUp,
      problem,
      remark,
    })),
    topics: spool.topics.map(({ topic, accepted, acknowledged }) => ({
      topic,
      deliveredPerSecond: rate((of) => of.spool.topics.find((other) => other.topic === topic)?.acknowledged),
      lag: accepted - acknowledged,
      problem: uplink.heldUp.find((held) => held.topic === topic)?.problem ?? null,
    })),
    spool: {
      bytes: spool.bytes,
      maxBytes: spool.maxBytes,
      usedPercent: Math.round((1000 * spool.bytes) / spool.maxBytes) / 10,
    },
    disk: diskOf(before, now),
    uplink: {
      ...uplink,
      state: uplinkStateOf(now.value),
      bytesPerSecond: rate((of) => of.uplink.bytes),
      problem: uplinkProblem,
    },
    rules,
    sampledOut,
    quarantined,
    controlProblem,
  };
}

/** `partly`: the log takes readings, but not those of each topic; `trying`: it has neither taken nor refused any. */
function uplinkStateOf({ uplink, uplinkProblem, spool }: AgentStatus): 'up' | 'partly' | 'trying' | 'down' {
  if (uplinkProblem !== null) return 'down';
  if (uplink.heldUp.length > 0) return 'partly';
  const isWaiting = spool.topics.some(({ accepted, acknowledged }) => accepted > acknowledged);
  return isWaiting && uplink.bytes === 0 ? 'trying' : 'up';
}

function sayUplink(status: AgentStatus): string {
  const { uplink, uplinkProblem, spool } = status;
  switch (uplinkStateOf(status)) {
    case 'down':
      return `down: ${uplinkProblem}`;
    case 'partly':
      return `partly up: ${uplink.heldUp.length} of ${spool.topics.length} topics are held up`;
    case 'trying':
      return 'tries: the log has taken nothing since the start';
    case 'up':
      return 'up';
  }
}

interface DiskRates {
  /** At the rate between the two looks. */
  readonly writtenPerDay: number;
  readonly written: number;
  /** Since the agent's start; null before the first reading. */
  readonly writtenPerStored: number | null;
}

/** null where the kernel does not say what is written. */
function diskOf(before: TimedStatus, now: TimedStatus): DiskRates | null {
  const { diskWritten: written, spool } = now.value;
  if (written === null) return null;
  const writtenPerDay = Math.round(SECONDS_PER_DAY * perSecond(before, now, (of) => of.diskWritten ?? undefined));
  const writtenPerStored = spool.storedBytes === 0 ? null : Math.round((100 * written) / spool.storedBytes) / 100;
  return { writtenPerDay, written, writtenPerStored };
}

function sayDisk(disk: DiskRates | null): string {
  if (disk === null) return 'writes are not counted on this machine';
  const { writtenPerDay, written, writtenPerStored } = disk;
  const ratio = writtenPerStored === null ? '' : `, ${writtenPerStored} for each byte of readings`;
  return `${formatBytes(writtenPerDay)} written a day at this rate   ${formatBytes(written)} since the start${ratio}`;
}

/** A table for a person. */
export function drawTop(before: TimedStatus, now: TimedStatus): string {
  const rates = ratesOf(before, now) as { sources: SourceRow[]; topics: Row[]; spool: Row; uplink: Row; rules: Row[] }; // the object above
  const { value: status } = now;
  const lines = [
    `agent ${status.agent}   spool ${String(rates.spool['usedPercent'])} % of ${formatBytes(status.spool.maxBytes)}   quarantined ${status.quarantined}`,
  ];
  lines.push(
    `uplink ${sayUplink(status)}   ${String(rates.uplink['bytesPerSecond'])} bytes/s${status.uplink.backlog ? '   draining a backlog' : ''}`,
  );
  lines.push(`disk ${sayDisk(diskOf(before, now))}`);
  for (const cut of status.uplink.cuts) lines.push(cut);
  const { budget } = status.uplink;
  if (budget !== null && budget.bytesPerDay > 0) {
    lines.push(
      `budget ${budget.usedToday} of ${budget.bytesPerDay} bytes today, ends in ${Math.round(budget.dayEndsInMs / 60_000)} min`,
    );
  }
  lines.push('', 'SOURCE                                    READINGS/S');
  for (const { name, readingsPerSecond, problem, heldUp, remark } of rates.sources) {
    const note = problem ?? (heldUp === true ? 'waits for room' : (remark ?? ''));
    lines.push(`${String(name).padEnd(40)}  ${String(readingsPerSecond).padStart(10)}  ${note}`.trimEnd());
  }
  lines.push('', 'TOPIC                                    DELIVERED/S         LAG');
  for (const { topic, deliveredPerSecond, lag, problem } of rates.topics) {
    const figures = `${String(deliveredPerSecond).padStart(10)}  ${String(lag).padStart(10)}`;
    lines.push(`${String(topic).padEnd(40)}  ${figures}  ${typeof problem === 'string' ? problem : ''}`.trimEnd());
  }
  if (rates.rules.length > 0) lines.push('', 'RULE');
  for (const { when, active } of rates.rules) lines.push(`${active === true ? 'ACTIVE' : 'rests '}  ${String(when)}`);
  return `${lines.join('\n')}\n`;
}

type Row = Readonly<Record<string, unknown>>;
type SourceRow = Row & { readonly problem: string | null; readonly remark: string | null };
