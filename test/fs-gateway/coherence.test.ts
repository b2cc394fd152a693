/** Two mounts of one volume on one machine: what one does reaches the other's kernel through the feed, not by waiting for a time to live. */
import { describe, expect, test } from 'vitest';
import { mountTestVolume } from '../support/fs-volume.ts';
import { run } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

/** Below the kernel's time to live of a minute: what arrives by then was pushed. */
const PUSHED_SECONDS = 45;

/** Runs a script with the two mount points as $A and $B; `pushed CMD` repeats it until it succeeds. */
async function script(a: string, b: string, text: string): Promise<string> {
  const pushed = `A=$1; B=$2; pushed() { local end=$((SECONDS+${PUSHED_SECONDS})); while ! eval "$1"; do [ $SECONDS -lt $end ] || { echo "not pushed: $1" >&2; exit 9; }; sleep 0.01; done; }\n`;
  const result = await run('bash', ['-ec', pushed + text, 'bash', a, b]);
  expect(`${result.stderr}${result.status}`).toBe('0');
  return result.stdout;
}

describe.skipIf(cannotMount())('two mounts of a volume', () => {
  test('see names, contents, sizes and removals of each other', async () => {
    const first = await mountTestVolume();
    const second = await mountTestVolume(first);
    const [a, b] = [first.mountpoint, second.mountpoint];
    // Each look before the change puts the old state (also that a name is absent) into the other's caches.
    await script(
      a,
      b,
      `[ ! -e $B/file ]; echo one > $A/file; pushed '[ "$(cat $B/file 2>/dev/null)" = one ]'
       echo two-longer > $A/file; pushed '[ "$(cat $B/file)" = two-longer ]'
       head -c 100000 /dev/urandom > $A/big; pushed 'cmp -s $A/big $B/big'
       dd if=/dev/urandom of=$B/big bs=1000 count=1 seek=50 conv=notrunc status=none; pushed 'cmp -s $A/big $B/big'
       mkdir $A/d; mv $A/file $A/d/renamed; pushed '[ -e $B/d/renamed ] && [ ! -e $B/file ]'
       chmod 600 $B/d/renamed; pushed '[ "$(stat -c %a $A/d/renamed)" = 600 ]'
       rm $B/d/renamed; pushed '[ ! -e $A/d/renamed ]'
       rmdir $A/d; pushed '[ ! -e $B/d ]'
       touch $B/in-new; pushed '[ "$(ls $A)" = "$(ls $B)" ]'`,
    );
  });

  test('make names in one directory without losing any, and only one wins an exclusive create', async () => {
    const first = await mountTestVolume();
    const second = await mountTestVolume(first);
    const output = await script(
      first.mountpoint,
      second.mountpoint,
      `mkdir $A/d; pushed '[ -d $B/d ]'
       (for i in $(seq 150); do echo a > $A/d/a$i; (set -C; echo a > $A/d/x$i) 2>/dev/null && echo won; done) &
       (for i in $(seq 150); do echo b > $B/d/b$i; (set -C; echo b > $B/d/x$i) 2>/dev/null && echo won; done; true)
       wait; pushed '[ "$(ls $A/d | wc -l)" = 450 ]'; pushed '[ "$(ls $B/d | wc -l)" = 450 ]'`,
    );
    expect(output.match(/won/g)).toHaveLength(150);
  });

  test('a change by name is of what the name has, and leaves the kernel right, however late it hears of others', async () => {
    const first = await mountTestVolume();
    const second = await mountTestVolume(first);
    const [a, b] = [first.mountpoint, second.mountpoint];
    await script(a, b, `echo one > $A/job; mkdir $A/d; pushed '[ -e $B/d ]'; stat $A/job $A/d > $A/looked`);
    // Who writes invalidations is stopped: the first kernel holds what it looked at, whatever the second mount does.
    process.kill(first.supervisorPid, 'SIGSTOP');
    await script(
      a,
      b,
      `mv $B/d $B/moved; mkdir $B/d; echo two > $B/new; mv $B/new $B/job
       (cd $A/d; rmdir $A/d; [ ! -e $A/d ]; echo x > x); [ "$(cat $B/moved/x)" = x ]
       mv $A/job $A/taken; [ "$(cat $A/taken) $(stat -c %i $A/taken)" = "two $(stat -c %i $B/taken)" ]; [ ! -e $A/job ]`,
    );
    process.kill(first.supervisorPid, 'SIGCONT');
    await script(a, b, `pushed '[ "$(ls $A)" = "$(ls $B)" ]'`);
  });

  test.skipIf(process.getuid?.() !== 0)(
    'nobody removes the file of another from a sticky directory by being late',
    async () => {
      const first = await mountTestVolume();
      const second = await mountTestVolume(first);
      const [a, b] = [first.mountpoint, second.mountpoint];
      await script(
        a,
        b,
        `chmod 755 $A/..; mkdir -m 1777 $A/t; echo mine > $A/t/f; chown 1000 $A/t/f; pushed '[ -e $B/t ]'; stat $A/t/f > $A/looked`,
      );
      process.kill(first.supervisorPid, 'SIGSTOP');
      await script(
        a,
        b,
        `echo theirs > $B/t/new; mv $B/t/new $B/t/f
       setpriv --reuid=1000 --regid=1000 --clear-groups rm -f $A/t/f 2> $A/refused && exit 1; grep -q 'not permitted' $A/refused
       [ "$(cat $B/t/f)" = theirs ]`,
      );
    },
  );

  test('append to one file with O_APPEND: every line is there once and whole', async () => {
    const first = await mountTestVolume();
    const second = await mountTestVolume(first);
    const output = await script(
      first.mountpoint,
      second.mountpoint,
      `: > $A/log; pushed '[ -e $B/log ]'
       (for i in $(seq 200); do echo "line $i of a" >> $A/log; done) &
       (for i in $(seq 200); do echo "line $i of b" >> $B/log; done)
       wait; pushed '[ "$(wc -l < $A/log)" = 400 ]'; pushed 'cmp -s $A/log $B/log'; cat $A/log`,
    );
    const lines = output.trim().split('\n');
    for (const name of ['a', 'b']) {
      const expected = Array.from({ length: 200 }, (_, n) => `line ${n + 1} of ${name}`);
      expect(lines.filter((line) => line.endsWith(name))).toEqual(expected);
    }
  });
});
