/** A control plane over a real pipeline on the embedded adapters, served on a free port of this machine. */
import { expect, onTestFinished } from 'vitest';
import { desiredProblems } from '../../agent/control/desired-schema.ts';
import { volumeToolsOf } from '../../bin/volume-tools.ts';
import { writeCost } from '../../compactor/cost/cost.ts';
import { serve, type ServeOptions, type Serving } from '../../control/main.ts';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  recordOf,
  TestProducer,
  type TestPipeline,
} from '../compactor/pipeline.ts';
import { HANG_MS } from '../support/hang.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // What an answer holds is for the test to say.
  readonly json: Readonly<Record<string, unknown>>;
}

export class Control {
  readonly url: string;
  readonly serving: Serving;
  /** Resolves when it has ended. */
  readonly stop: () => Promise<void>;

  constructor(serving: Serving, stop: () => Promise<void>) {
    this.url = serving.url;
    this.serving = serving;
    this.stop = stop;
  }

  async request(
    method: string,
    path: string,
    options: {
      readonly token?: string;
      readonly body?: unknown;
      readonly headers?: Readonly<Record<string, string>>;
    } = {},
  ): Promise<Answer> {
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: {
        ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
        ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...options.headers,
      },
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      signal: AbortSignal.timeout(HANG_MS),
    });
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.includes('json') ?? false;
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: isJson && text !== '' ? (JSON.parse(text) as Answer['json']) : {},
    };
  }

  /** The body of a GET that must succeed. */
  async get(path: string, token?: string): Promise<Answer['json']> {
    const answer = await this.request('GET', path, token === undefined ? {} : { token });
    expect(answer.status, answer.text).toBe(200);
    return answer.json;
  }
}

/** Served until the test ends. */
export async function startControl(
  config: PipelineConfig,
  baseDir: string,
  firstToken?: string,
  options: Partial<Pick<ServeOptions, 'sealKeys' | 'onLog' | 'clock' | 'clientBounds' | 'volumeTools'>> = {},
): Promise<Control> {
  const stop = new AbortController();
  const { promise, resolve, reject } = Promise.withResolvers<Serving>();
  const ended = serve({
    config,
    baseDir,
    port: 0,
    signal: stop.signal,
    version: 'test',
    agentConfigProblems: desiredProblems,
    volumeTools: volumeToolsOf(config, baseDir),
    onServing: resolve,
    ...options,
    ...(firstToken === undefined ? {} : { firstToken }),
  });
  ended.catch(reject);
  let served = false;
  const end = async (): Promise<void> => {
    stop.abort();
    // One that did not start has said why already.
    await (served ? ended : ended.catch(() => undefined));
  };
  onTestFinished(end);
  const serving = await promise;
  served = true;
  return new Control(serving, end);
}

/** A token of each role, by role; `first` is the administrator's. */
export async function tokensOfRoles(control: Control, first: string): Promise<Readonly<Record<string, string>>> {
  const tokens: Record<string, string> = { admin: first };
  for (const [name, role] of [
    ['v', 'viewer'],
    ['o', 'operator'],
    ['edge-1', 'agent'],
  ] as const) {
    const made = await control.request('POST', '/v1/tokens', { token: first, body: { name, role } });
    expect(made.status, made.text).toBe(201);
    tokens[role] = String(made.json['token']);
  }
  return tokens;
}

export interface Landed {
  readonly pipeline: TestPipeline;
  readonly producer: TestProducer;
  /** Good readings so far. */
  readonly rows: number;
}

/** Three commits of the lander with 40 good readings and 2 bad ones each. */
export async function landedPipeline(options: { readonly compacted?: boolean } = {}): Promise<Landed> {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  for (let commit = 0; commit < 3; commit++) {
    const good = Array.from({ length: 40 }, (_, index) => reading(commit * 40 + index));
    await producer.append(commit % 2, [
      ...good.slice(0, 20),
      bad(1000 + commit * 2),
      ...good.slice(20),
      bad(1001 + commit * 2),
    ]);
    await landOnce(pipeline);
  }
  if (options.compacted !== false) await compactAll(pipeline);
  return { pipeline, producer, rows: 120 };
}

export function reading(seq: number): ReturnType<typeof recordOf> {
  return recordOf({ seq, value: { ts: HOUR_MS + seq * 1000, sensor: `s-${seq % 4}`, rms: seq / 10 } });
}

const bad = (seq: number): ReturnType<typeof recordOf> => recordOf({ seq, value: `{"ts": oops ${seq}` });

/** A landing run a day up to yesterday: growing by 1 % a day, weekends at half, with a little noise that is the same each time. */
export async function writeCostsOfDays(lake: LakeContext, days: number, dataset = DATASET): Promise<number[]> {
  const today = Math.floor(Date.now() / 86_400_000) * 86_400_000;
  const rows: number[] = [];
  for (let day = 0; day < days; day++) {
    const startedMs = today - (days - day) * 86_400_000 + 3_600_000;
    const isWeekend = [0, 6].includes(new Date(startedMs).getUTCDay());
    const amount = Math.round(
      1_000_000 * (1 + day / 100) * (isWeekend ? 0.5 : 1) * (1 + 0.03 * Math.sin(day * 12.9898)),
    );
    rows.push(amount);
    const used = {
      seconds: 60,
      cpuSeconds: amount / 300_000,
      bytesRead: amount * 20,
      bytesWritten: amount * 8,
      gets: 10,
      puts: 10,
    };
    await writeCost(lake, dataset, { kind: 'land', startedMs, rows: amount, ...used });
  }
  return rows;
}
