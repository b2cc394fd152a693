/** Requests of an agent to its control plane, as agent.yaml's `control` says. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { boundedText } from '../../lib/bounded-text.ts';
import type { Loaded } from '../../lib/config/load.ts';
import type { AgentConfig } from '../config.ts';

/** Above what a configuration may have (control/agents/). */
const ANSWER_BYTES_MAX = 1 << 20;

export interface ControlAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

export class ControlPlane {
  readonly url: string;
  readonly #agent: string;
  /** A file with the bearer token, read anew each time: it may be renewed under a running agent. */
  readonly #tokenPath: string | undefined;

  private constructor(agent: string, control: NonNullable<AgentConfig['control']>, baseDir: string) {
    this.url = control.url;
    this.#agent = agent;
    this.#tokenPath = control.tokenFile === undefined ? undefined : resolve(baseDir, control.tokenFile);
  }

  /** null: the agent has none. */
  static of({ config, baseDir }: Pick<Loaded<AgentConfig>, 'config' | 'baseDir'>): ControlPlane | null {
    return config.control === undefined ? null : new ControlPlane(config.agent.id, config.control, baseDir);
  }

  /** `path` is below that of the agent. Throws when no answer comes within `timeoutMs`, whatever the reason. */
  async request(
    path: string,
    options: {
      readonly signal: AbortSignal;
      readonly timeoutMs: number;
      readonly body?: unknown;
      readonly headers?: Readonly<Record<string, string>>;
    },
  ): Promise<ControlAnswer> {
    // A base without a slash at its end would lose its last part.
    const base = this.url.endsWith('/') ? this.url : `${this.url}/`;
    const token = this.#tokenPath === undefined ? undefined : (await readFile(this.#tokenPath, 'utf8')).trim();
    const response = await fetch(new URL(`v1/agents/${encodeURIComponent(this.#agent)}/${path}`, base), {
      headers: {
        ...options.headers,
        ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      ...(options.body === undefined ? {} : { method: 'POST', body: JSON.stringify(options.body) }),
      signal: AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs)]),
    });
    const text = await boundedText(response, ANSWER_BYTES_MAX);
    return { status: response.status, headers: response.headers, text };
  }
}

/** What an answer that is not wanted says. */
export const refusalOf = ({ status, text }: ControlAnswer): string => `HTTP ${status}: ${text.slice(0, 200)}`;
