/** What an agent tells about itself: for the console, for `/metrics` and for the summary at its end. */
import type { DesiredStatus } from './control/desired-config.ts';
import type { SourceCounters } from './source-output.ts';
import type { RuleState } from './rules/rules.ts';
import type { SpoolStats } from './spool/spool-stats.ts';
import type { TransformCounters } from './transforms/chain.ts';
import type { UplinkStatus } from './uplink/uplink-status.ts';

export interface AgentStatus {
  readonly agent: string;
  readonly incarnation: string;
  /** Accepted over the life of the data directory: the sum of the topics' last sequences. */
  readonly readings: number;
  /** Of these, delivered to the log (or recorded as given up). */
  readonly delivered: number;
  /** Accepted into the spool since this start. */
  readonly spooled: number;
  /** Since this start. */
  readonly quarantined: number;
  readonly sources: readonly Readonly<SourceCounters>[];
  readonly transforms: readonly TransformCounters[];
  readonly spool: SpoolStats;
  /** Bytes that this process wrote to disks since this start (disk-writes.ts); null where the kernel does not say. */
  readonly diskWritten: number | null;
  /** Damaged files of the spool and the uplink that were set aside since this start: what could not be read is in them. */
  readonly setAside: readonly string[];
  readonly uplink: Pick<UplinkStatus, 'bytes' | 'inFlight' | 'backlog' | 'budget' | 'heldUp' | 'cuts'>;
  readonly rules: readonly RuleState[];
  /** Readings that rules left out, since this start. */
  readonly sampledOut: number;
  /** Why the log takes nothing at present, or null. What it refuses of single topics is in `uplink.heldUp`. */
  readonly uplinkProblem: string | null;
  /** Why the control plane did not take the last heartbeat, or null. */
  readonly controlProblem: string | null;
  /** What the control plane wants it to run with, and what came of it; null without a control plane. */
  readonly config: DesiredStatus | null;
  /** Of traces, since this start: what the receiver did not take; null without one. */
  readonly spansDropped: number | null;
}

export interface AgentSummary {
  readonly readings: number;
  readonly spooled: number;
  readonly delivered: number;
  readonly quarantined: number;
  readonly incarnation: string;
  readonly setAside: readonly string[];
  readonly perTopic: Readonly<Record<string, { readonly readings: number; readonly delivered: number }>>;
}

export function summaryOf(status: AgentStatus): AgentSummary {
  const { readings, spooled, delivered, quarantined, incarnation, setAside } = status;
  const perTopic = Object.fromEntries(
    status.spool.topics.map((topic) => [topic.topic, { readings: topic.accepted, delivered: topic.acknowledged }]),
  );
  return { readings, spooled, delivered, quarantined, incarnation, setAside, perTopic };
}

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

/** Prometheus' text format, version 0.0.4. */
export function prometheusText(status: AgentStatus, oldestUndeliveredSeconds: number): string {
  const { sources, transforms, spool, rules } = status;
  const { budget } = status.uplink;
  const bySource = (pick: (source: Readonly<SourceCounters>) => number): Sample[] =>
    sources.map((source) => [{ source: source.name }, pick(source)]);
  const byTransform = (pick: (transform: TransformCounters) => number): Sample[] =>
    transforms.map((transform, index) => [{ transform: `${index}: ${transform.name}` }, pick(transform)]);
  const byTopic = (pick: (topic: SpoolStats['topics'][number]) => number): Sample[] =>
    spool.topics.map((topic) => [{ topic: topic.topic }, pick(topic)]);
  return [
    metric('source_readings_total', 'counter', 'Readings of a source that are durable in the spool, since the start.', bySource((source) => source.readings)),
    metric('source_quarantined_total', 'counter', 'Inputs of a source that are no readings, since the start.', bySource((source) => source.quarantined)),
    metric('source_events_total', 'counter', 'What else happened at a source, by event (docs/AGENT.md), since the start.', sources.flatMap((source) => Object.entries(source.events).map(([event, times]): Sample => [{ source: source.name, event }, times]))),
    metric('source_held_up', 'gauge', '1 while the source waits for room in the spool.', bySource((source) => Number(source.isHeldUp))),
    metric('source_problem', 'gauge', '1 while the source reports a problem.', bySource((source) => Number(source.problem !== null))),
    metric('source_remark', 'gauge', '1 while something at the source is worth a look and no problem, as topic filters that nothing matches (in /status).', bySource((source) => Number(source.remark !== null))),
    metric('transform_readings_total', 'counter', 'Readings that came to a transform, since the start.', byTransform(({ seen }) => seen)),
    metric('transform_dropped_total', 'counter', 'Readings that a transform left out, held back or folded into a window.', byTransform(({ dropped }) => dropped)),
    metric('transform_missed_total', 'counter', 'Readings that a transform passed on as they were, because a field was missing.', byTransform(({ missed }) => missed)),
    metric('transform_failed_total', 'counter', 'Readings that a transform could not judge: they are in the quarantine.', byTransform(({ failed }) => failed)),
    metric('transform_made_total', 'counter', 'Windows, and readings that were held back before.', byTransform(({ made }) => made)),
    metric('topic_readings_total', 'counter', 'Readings accepted over the life of the spool.', byTopic((topic) => topic.accepted)),
    metric('topic_delivered_total', 'counter', 'Readings delivered to the log, or recorded as given up, over the life of the spool.', byTopic((topic) => topic.acknowledged)),
    metric('topic_lag_readings', 'gauge', 'Readings in the spool that are not delivered.', byTopic((topic) => topic.accepted - topic.acknowledged)),
    metric('spool_bytes', 'gauge', 'Bytes of the spool on the disk.', [[{}, spool.bytes]]),
    metric('spool_bytes_max', 'gauge', 'Bound of the spool.', [[{}, spool.maxBytes]]),
    metric('spool_segments', 'gauge', 'Segment files of the spool.', [[{}, spool.segments]]),
    metric('spool_dropped_readings', 'gauge', 'Undelivered readings that the policy gave up, and that the log has not been told of.', [[{}, spool.dropped]]),
    metric('stored_bytes_total', 'counter', 'Bytes of the readings (sensor ids and values) that were stored in the spool, since the start.', [[{}, spool.storedBytes]]),
    metric('disk_written_bytes_total', 'counter', 'Bytes that the agent wrote to disks, as the kernel counts them, since the start.', status.diskWritten === null ? [] : [[{}, status.diskWritten]]),
    metric('set_aside_total', 'counter', 'Damaged files of the spool and the uplink that were set aside since the start.', [[{}, status.setAside.length]]),
    metric('oldest_undelivered_seconds', 'gauge', 'Age of the oldest reading that is not delivered; 0 when all are.', [[{}, oldestUndeliveredSeconds]]),
    metric('uplink_bytes_total', 'counter', 'Bytes sent into the log, since the start.', [[{}, status.uplink.bytes]]),
    metric('uplink_backlog', 'gauge', '1 while something is sent behind the present.', [[{}, Number(status.uplink.backlog)]]),
    metric('topic_held_up', 'gauge', '1 while the log does not take the readings of a topic that there are to send (reason in /status).', spool.topics.map(({ topic }) => [{ topic }, Number(status.uplink.heldUp.some((held) => held.topic === topic))])),
    metric('log_cuts', 'gauge', 'Partitions whose log forgot records that it had acknowledged, since the start, at most 20 (in /status).', [[{}, status.uplink.cuts.length]]),
    metric('budget_used_bytes', 'gauge', 'Bytes of the day budget that are used.', budget === null ? [] : [[{}, budget.usedToday]]),
    metric('rule_active', 'gauge', '1 while the rule is active.', rules.map(({ when, active }, index) => [{ rule: `${index}: ${when}` }, Number(active)])),
    metric('rule_sampled_out_total', 'counter', 'Readings that rules left out, since the start.', [[{}, status.sampledOut]]),
    metric('config_refused', 'gauge', '1 while the agent does not run with what the control plane wants.', status.config === null ? [] : [[{}, Number(status.config.refused !== null)]]),
    metric('spans_dropped_total', 'counter', 'Spans of traces that were given up, since the start.', status.spansDropped === null ? [] : [[{}, status.spansDropped]]),
    metric('uplink_up', 'gauge', '1 while the log takes readings.', [[{}, Number(status.uplinkProblem === null)]]),
  ].join(''); // prettier-ignore
}

function metric(name: string, type: 'counter' | 'gauge', help: string, samples: readonly Sample[]): string {
  const full = `penstock_agent_${name}`;
  const lines = samples.map(([labels, value]) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`);
    return `${full}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`;
  });
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.map((line) => `${line}\n`).join('')}`;
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
