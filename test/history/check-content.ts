/**
 * The rest of a history: close-to-open of contents, exclusion of locks, and that nothing that was acknowledged is lost.
 *
 * Contents: each write replaces the record of a file by a token of its own and is acknowledged by close. A read may see any write that
 * began before the read ended, but not one that was replaced by a write of any mount that was acknowledged before the read began, or before a sight of the
 * same mount (regular register); and what all mounts agree on in the end was not replaced by a write that began after its acknowledgement. With `writeback`, where
 * an acknowledged write is committed later, this holds between the writes of one mount, for whichever mount reads them.
 */
import { describe, failed, type Durable, type Operation, type State } from './history.ts';

export function checkContents(
  start: State,
  history: readonly Operation[],
  end: State,
  { closeToOpen }: { readonly closeToOpen: boolean },
): string[] {
  const wrong: string[] = [];
  for (const [file, initial] of Object.entries(start.files)) {
    const mine = history.filter(({ kind, args }) => (kind === 'write' || kind === 'read') && args[0] === file);
    const writes = new Map(mine.filter(({ kind }) => kind === 'write').map((write) => [String(write.args[1]), write]));
    /** `a` was acknowledged before `b` began: whoever has seen `b` must not see `a`. */
    const older = (a: string, b: string): boolean => {
      if (b === initial) return false;
      const [first, second] = [writes.get(a), writes.get(b)];
      if (second === undefined) return false;
      if (!closeToOpen && first?.mount !== second.mount) return false;
      return first === undefined ? a === initial : !failed(first) && first.end < second.start;
    };
    for (const read of mine) {
      if (read.kind !== 'read' || failed(read)) continue;
      const token = String(read.result);
      const write = writes.get(token);
      if (token !== initial && (write === undefined || write.start > read.end)) {
        wrong.push(`nobody had written it: ${describe(read)}`);
        continue;
      }
      for (const earlier of mine) {
        // Who opens behind another mount's close sees it; what another mount was shown may be a write that is not closed yet.
        const counts = earlier.mount === read.mount || (closeToOpen && earlier.kind === 'write');
        if (!counts || earlier.end >= read.start || failed(earlier)) continue;
        const known = earlier.kind === 'write' ? String(earlier.args[1]) : String(earlier.result);
        if (older(token, known))
          wrong.push(`older than what the mount knew: ${describe(read)} after ${describe(earlier)}`);
      }
    }
    const last = end.files[file] ?? '';
    if (last !== initial && !writes.has(last)) wrong.push(`${file} ends as '${last}', which nobody wrote`);
    for (const [token, write] of writes) {
      if (!failed(write) && older(last, token)) wrong.push(`lost: ${describe(write)}, in the end there is '${last}'`);
    }
  }
  return wrong;
}

/** No two held the lock at one time, and each saw what the one before had written. */
export function checkLocks(history: readonly Operation[]): string[] {
  const wrong: string[] = [];
  for (const lock of ['fcntl', 'flock']) {
    const held = history
      .filter(({ kind, args, result }) => kind === 'lock' && args[0] === lock && Array.isArray(result))
      .map((operation) => ({ operation, times: operation.result as readonly number[] })) // [since, until, value], by client.py
      .sort((a, b) => (a.times[0] ?? 0) - (b.times[0] ?? 0));
    for (const [index, { operation, times }] of held.entries()) {
      const before = held[index - 1];
      if (before === undefined) continue;
      if ((before.times[1] ?? 0) > (times[0] ?? 0)) {
        wrong.push(`two hold the ${lock} lock: ${describe(before.operation)} and ${describe(operation)}`);
      } else if ((before.times[2] ?? 0) >= (times[2] ?? 0)) {
        wrong.push(`the ${lock} lock hid a write: ${describe(operation)} after ${describe(before.operation)}`);
      }
    }
  }
  return wrong;
}

export function checkDurable(
  end: State,
  durable: ReadonlyMap<string, Durable>,
  own: ReadonlyMap<string, readonly string[]>,
): string[] {
  const wrong: string[] = [];
  const lines = new Map<string, number>();
  for (const line of end.log) lines.set(line, (lines.get(line) ?? 0) + 1);
  for (const [client, said] of durable) {
    for (const line of said.append) {
      if (lines.get(line) !== 1) wrong.push(`appended '${line}' is there ${lines.get(line) ?? 0} times`);
    }
    const inOrder = end.log.filter((line) => line.startsWith(`${client}-a`)).map((line) => Number(line.split('-a')[1]));
    if (inOrder.some((n, index) => index > 0 && n <= (inOrder[index - 1] ?? 0))) {
      wrong.push(`appends of ${client} are out of order`);
    }
    const records = own.get(client) ?? [];
    for (let n = 0; n < said.sync; n++) {
      if (records[n] !== `${client}-${n}`) wrong.push(`synced record ${n} of ${client} is '${records[n] ?? ''}'`);
    }
  }
  for (const line of end.log) if (!/^c\d+-a\d+$/.test(line)) wrong.push(`the log has a torn line '${line}'`);
  for (const lock of ['fcntl', 'flock'] as const) {
    const raised = [...durable.values()].reduce((sum, said) => sum + said[lock], 0);
    if ((end.counters[lock] ?? 0) < raised)
      wrong.push(`the ${lock} counter is ${end.counters[lock] ?? 0} after ${raised}`);
  }
  return wrong;
}
