import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { agentSchema, type FileSourceConfig } from '../../../agent/config.ts';
import { Intake } from '../../../agent/intake.ts';
import { Quarantine } from '../../../agent/quarantine.ts';
import { AgentSourceOutput } from '../../../agent/source-output.ts';
import type { Source } from '../../../agent/sources/source.ts';
import type { Spool } from '../../../agent/spool/spool.ts';
import { Rules } from '../../../agent/rules/rules.ts';
import { Taps } from '../../../agent/tap.ts';
import { TransformChain } from '../../../agent/transforms/chain.ts';
import { systemClock, type Clock } from '../../../lib/clock.ts';
import { isCode } from '../../../lib/errors.ts';

/** The configuration of one source with its defaults. */
export function sourceConfig<T extends string>(
  source: { readonly type: T } & Record<string, unknown>,
): ReturnType<typeof agentSchema.parse>['sources'][number] & { readonly type: T } {
  const parsed = agentSchema.parse({ agent: { id: 'a' }, log: 'file:x', sources: [source] }).sources[0];
  if (parsed?.type !== source.type) throw new Error('the schema changed the type');
  return parsed as never;
}

export function fileConfig(path: string, more: Record<string, unknown> = {}): FileSourceConfig {
  return sourceConfig({ type: 'file', path, to: 't', poll: '10ms', ...more });
}

export interface RunningSource {
  readonly output: AgentSourceOutput;
  /** Lines of the log. */
  readonly said: readonly string[];
  stop(): Promise<void>;
}

/** Runs a source into a spool; it is stopped when the test ends. */
export function runSource(source: Source, spool: Spool, dataDir: string, clock: Clock = systemClock): RunningSource {
  const controller = new AbortController();
  const said: string[] = [];
  const quarantine = new Quarantine(join(dataDir, 'quarantine'), clock);
  const output = new AgentSourceOutput(
    source.name,
    new Intake(spool, { chain: new TransformChain([]), rules: new Rules([]), taps: new Taps() }, quarantine, clock),
    quarantine,
    clock,
    controller.signal,
    (line) => said.push(line),
  );
  const running = source.run(output, controller.signal).catch((error: unknown) => {
    if (!isCode(error, 'aborted')) throw error;
  });
  const stop = async (): Promise<void> => {
    controller.abort();
    await running.finally(() => quarantine.close());
  };
  onTestFinished(() => stop());
  return { output, said, stop };
}

export interface QuarantinedItem {
  readonly source: string;
  readonly reason: string;
  readonly position: string;
  readonly text?: string;
  readonly base64?: string;
}

export function quarantinedIn(dataDir: string): QuarantinedItem[] {
  const dir = join(dataDir, 'quarantine');
  return readdirSync(dir).flatMap((name) =>
    readFileSync(join(dir, name), 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as QuarantinedItem),
  );
}
