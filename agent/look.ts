/** Looking at a running agent from its own machine: `penstock agent top` and `tap` ask the address that its agent.yaml names. */
import { describeError, PenstockError } from '../lib/errors.ts';
import { hostAndPort } from './config-parts.ts';
import type { AgentConfig } from './config.ts';
import type { AgentStatus } from './status.ts';
import type { TapStage } from './tap.ts';

const STATUS_TIMEOUT_MS = 5000;

/** Throws `config` when the agent serves nothing, `unavailable` when it does not answer. */
export async function fetchStatus(config: AgentConfig): Promise<AgentStatus> {
  const response = await ask(config, '/status', AbortSignal.timeout(STATUS_TIMEOUT_MS));
  return (await response.json()) as AgentStatus; // what our own agent answers
}

/** Calls `show` with each line (a reading as JSON) until `limit` were shown or the signal fires. */
export async function tapReadings(
  config: AgentConfig,
  { stage, topic, limit }: { readonly stage: TapStage; readonly topic: string | undefined; readonly limit: number },
  show: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const query = new URLSearchParams({ stage, ...(topic === undefined ? {} : { topic }) });
  const end = new AbortController();
  const response = await ask(config, `/tap?${query.toString()}`, AbortSignal.any([signal, end.signal]));
  let rest = '';
  let shown = 0;
  try {
    for await (const text of (response.body ?? new ReadableStream<Uint8Array>()).pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (shown >= limit) return;
        show(line);
        shown += 1;
      }
      if (shown >= limit) return;
    }
  } catch (error) {
    if (!signal.aborted) throw new PenstockError('unavailable', `the agent went away: ${describeError(error)}`);
  } finally {
    end.abort();
  }
}

async function ask(config: AgentConfig, path: string, signal: AbortSignal): Promise<Response> {
  const { listen } = config.agent;
  if (listen === undefined) {
    throw new PenstockError('config', 'the agent serves nothing to ask: set agent.listen, as 127.0.0.1:9100');
  }
  const { host, port } = hostAndPort(listen);
  // An agent that listens on all addresses is asked on the loopback one, which alone shows readings.
  const address = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : host.includes(':') ? `[${host}]` : host;
  let response: Response;
  try {
    response = await fetch(`http://${address}:${port}${path}`, { signal });
  } catch (error) {
    throw new PenstockError('unavailable', `no agent answers on ${listen}: ${describeError(error)}`, { cause: error });
  }
  if (!response.ok) {
    throw new PenstockError('unavailable', `the agent on ${listen}: ${(await response.text()).trim()}`);
  }
  return response;
}
