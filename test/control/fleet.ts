/** Agents as the control plane sees them: each asks what it is to run with and says that it does, or what a test wants it to say. */
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'vitest';
import type { Rollout } from '../../control/agents/records.ts';
import type { Answer, Control } from './control.ts';

export const GROUP = '/v1/agent-groups/plant-a';
export const configOf = (rate: number): object => ({ sources: [{ type: 'simulator', rate, to: 'machine' }] });

export interface Rolling {
  readonly control: Control;
  readonly fleet: Fleet;
  readonly before: string;
  readonly start: (options?: object, rate?: number) => Promise<string>;
  readonly act: (act: string) => Promise<number>;
  readonly rollout: () => Promise<Rollout & { readonly health: Readonly<Record<string, number>> | null }>;
  /** Agents report until the roll-out is so. */
  readonly until: (what: Partial<Rollout>) => Promise<void>;
}

/** A group of agents that run with one configuration. */
export async function rolling(control: Control, agents: number): Promise<Rolling> {
  const fleet = new Fleet(control.request.bind(control), agents);
  await fleet.join('plant-a');
  await control.request('PUT', `${GROUP}/config`, { body: { config: configOf(1) } });
  await fleet.beat();
  const rollout: Rolling['rollout'] = async () =>
    (await control.get(`${GROUP}/rollout`)) as unknown as Awaited<ReturnType<Rolling['rollout']>>;
  const must = (answer: Answer): Answer => {
    expect(answer.status, answer.text).toBe(201);
    return answer;
  };
  return {
    control,
    fleet,
    before: String((await control.get(`${GROUP}/config`))['version']),
    rollout,
    start: async (options = {}, rate = 2) =>
      String(
        must(
          await control.request('POST', `${GROUP}/rollout`, {
            body: {
              config: configOf(rate),
              soakSeconds: 1,
              steps: [{ agents: 1 }, { percent: 50 }, { percent: 100 }],
              ...options,
            },
          }),
        ).json['version'],
      ),
    act: async (act) => (await control.request('POST', `${GROUP}/rollout/${act}`)).status,
    until: async (what) => {
      await expect
        .poll(
          async () => {
            const found = await rollout();
            // Not behind what is waited for: that beat could be the end of it.
            if (!isMatch(found, what)) await fleet.beat();
            return found;
          },
          { interval: 100 },
        )
        .toMatchObject(what);
    },
  };
}

const isMatch = (found: object, what: object): boolean => isDeepStrictEqual({ ...found, ...what }, found);

export interface Says {
  /** Refuses every version but the first it had. */
  readonly refuses?: true;
  readonly problem?: string;
  readonly spooled?: number;
  readonly quarantined?: number;
  readonly runningSeconds?: number;
}

export class Fleet {
  readonly #request: Control['request'];
  readonly agents: readonly string[];
  /** What each runs with. */
  readonly running = new Map<string, string | null>();
  /** What agents that run with a version say besides. */
  readonly says = new Map<string, Says>();
  readonly silent = new Set<string>();
  /** What each was told that it is to run with. */
  readonly #told = new Map<string, string>();

  constructor(request: Control['request'], count: number) {
    this.#request = request;
    this.agents = Array.from({ length: count }, (_, index) => `edge-${String(index).padStart(2, '0')}`);
  }

  async join(group: string): Promise<void> {
    await this.#must('PUT', `/v1/agent-groups/${group}`);
    for (const agent of this.agents) await this.#must('PUT', `/v1/agent-groups/${group}/agents/${agent}`);
  }

  /**
   * All ask, then all report what they have run with since the last beat, then all take over what they were told. So a server that looks in
   * the middle of a beat, however long that takes, finds no step complete that begins in it.
   */
  async beat(): Promise<void> {
    const agents = this.agents.filter((agent) => !this.silent.has(agent));
    const told = await Promise.all(agents.map((agent) => this.#wanted(agent)));
    await Promise.all(agents.map((agent) => this.#report(agent)));
    for (const [index, agent] of agents.entries()) {
      const wanted = told[index] ?? 'none';
      this.#told.set(agent, wanted);
      if (this.says.get(wanted)?.refuses !== true) this.running.set(agent, wanted === 'none' ? null : wanted);
    }
  }

  /** Who runs with it. */
  with(version: string): string[] {
    return this.agents.filter((agent) => this.running.get(agent) === version);
  }

  async #wanted(agent: string): Promise<string> {
    return String((await this.#request('GET', `/v1/agents/${agent}/config`)).json['version']);
  }

  async #report(agent: string): Promise<void> {
    const [running, told] = [this.running.get(agent) ?? null, this.#told.get(agent) ?? 'none'];
    const says = this.says.get(running ?? 'none') ?? {};
    const config = {
      version: running,
      runningSeconds: says.runningSeconds ?? 1000,
      refused: this.says.get(told)?.refuses === true ? { version: told, reason: 'a test says so' } : null,
    };
    const { spooled = 1000, quarantined = 0, problem = null } = says;
    const status = {
      config,
      sources: [{ name: 'simulator:0:machine', problem }],
      uplinkProblem: null,
      spooled,
      quarantined,
    };
    await this.#must('POST', `/v1/agents/${agent}/heartbeat`, { status });
  }

  async #must(method: string, path: string, body?: unknown): Promise<void> {
    const answer = await this.#request(method, path, body === undefined ? {} : { body });
    expect([path, answer.status], answer.text).toEqual([path, 204]);
  }
}
