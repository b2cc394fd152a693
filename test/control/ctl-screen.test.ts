/** What `penstock ctl` shows of what others wrote: agents say what they like in their status. */
import { expect, test, vi } from 'vitest';
import { showAnswer } from '../../bin/commands/ctl-screen.ts';

function shown(value: unknown, columns?: Readonly<Record<string, string>>): string {
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  try {
    showAnswer(value, columns);
    return write.mock.calls.map(([text]) => String(text)).join('');
  } finally {
    write.mockRestore();
  }
}

test('a status that holds commands for a terminal is shown as text, in one line', () => {
  const hostile = '\x1b]0;title\x07\x9b2J\r\n8  false\u202e';
  const text = '\\u001b]0;title\\u0007\\u009b2J\\u000d\\u000a8  false\\u202e';
  const agent = { id: '7', status: { uplinkProblem: hostile }, [hostile]: [{ [hostile]: hostile }] };
  const columns = { id: 'id', problem: 'status.uplinkProblem' };
  expect(shown({ items: [agent], nextCursor: null }, columns)).toBe(`id  problem\n7   ${text}\n`);
  const key = text.replace(/\\u....|\w/g, (part) => (part.length > 1 ? part : part.toUpperCase()));
  expect(shown(agent)).toBe(`id      7\nstatus  uplinkProblem=${text}\n\n${key}\n${text}\n${text}\n`);
  expect(shown({ deep: { deeper: { [hostile]: hostile } } })).toBe(`deep.deeper.${text}  ${text}\n`);
  expect(shown('# HELP\n\x1b[2J\n')).toBe('# HELP\n\\u001b[2J\n');
});

test('a long cell is whole and pads no other; a table may have more rows than a call takes arguments', () => {
  const long = 'x'.repeat(30_000);
  expect(
    shown({
      items: [
        { problem: long, id: '1' },
        { problem: '', id: '2' },
      ],
    }),
  ).toBe(`${'problem'.padEnd(100)}  id\n${long}  1\n${''.padEnd(100)}  2\n`);
  const rows = Array.from({ length: 200_000 }, (_, index) => [index]);
  expect(shown({ columns: [{ name: 'n' }], rows }).slice(-14)).toBe('199998\n199999\n'.slice(-14));
});
