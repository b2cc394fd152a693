/**
 * Notices a worker that stands still: stopped, in an endless loop, or waiting in a system call that never returns. It is dead to programs, which
 * wait, and nothing else would tell.
 *
 * Looks are counted, not time: a supervisor that was itself stopped, asleep with its machine or without a processor has looked less often, and
 * says nothing about its worker.
 */
const LOOKS = 12;

/**
 * `ask` is called at every look while the answer to the call before is there; `onStill` once, when none came for `patienceMs`. Returns what ends
 * the watch.
 */
export function watchForAnswers(ask: () => Promise<unknown>, patienceMs: number, onStill: () => void): () => void {
  let unanswered = 0;
  let asking = false;
  const timer = setInterval(() => {
    if (unanswered === LOOKS) {
      clearInterval(timer);
      onStill();
      return;
    }
    unanswered++;
    if (asking) return;
    asking = true;
    const answered = (): void => {
      asking = false;
      unanswered = 0;
    };
    ask().then(answered, answered);
  }, patienceMs / LOOKS);
  return () => clearInterval(timer);
}
