/**
 * Run as a process by main.test.ts: an agent on the given agent.yaml, until SIGTERM. Prints the number of readings accepted for the
 * topic `machine` as it goes, and the summary at the end.
 */
import { loadAgentConfig, runAgent } from '../../agent/main.ts';

const controller = new AbortController();
process.on('SIGTERM', () => controller.abort());
const { config, baseDir } = await loadAgentConfig(process.argv[2] ?? '');
try {
  const summary = await runAgent({
    config,
    baseDir,
    signal: controller.signal,
    onStatus: ({ spool }) => {
      process.stdout.write(`${spool.topics.find(({ topic }) => topic === 'machine')?.accepted ?? 0}\n`);
    },
  });
  process.stdout.write(`${JSON.stringify(summary)}\n`);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
