/** The process of a mount in the background: gets its options over IPC, says when it is mounted, lives until the mount ends. */
import { describeError, PenstockError } from '../../lib/errors.ts';
import type { FromSupervisor } from './messages.ts';
import { Supervisor, superviseSignals, type SupervisorOptions } from './supervisor.ts';

async function main(options: SupervisorOptions): Promise<void> {
  const log = (message: string): void => {
    process.stderr.write(`penstock fs: ${message}\n`);
  };
  const answer = (message: FromSupervisor): void => {
    process.send?.(message, () => {
      if (process.connected) process.disconnect?.();
    });
  };
  try {
    const supervisor = new Supervisor(options, log);
    superviseSignals(supervisor, log);
    await supervisor.start();
    answer({ type: 'mounted', mountpoint: supervisor.mountpoint });
    process.exitCode = (await supervisor.ended) ? 0 : 1;
  } catch (error) {
    const code = error instanceof PenstockError ? error.code : 'io';
    answer({ type: 'failed', code, message: describeError(error) });
    process.exitCode = 1;
  }
}

process.once('message', (options: SupervisorOptions) => void main(options));
