/** The demo's progress: a block that is redrawn in a terminal, one line every few seconds elsewhere. All of it on stderr. */
import { counted, formatBytes } from '../../lib/units.ts';

export interface DemoProgress {
  readonly phase: 'collecting' | 'draining' | 'landing' | 'compacting' | 'querying';
  readonly seconds: number;
  readonly secondsLeft: number | undefined;
  readonly readings: number;
  readonly readingsPerSecond: number;
  readonly spoolBytes: number;
  readonly notDelivered: number;
  readonly landed: number;
  readonly quarantined: number;
  readonly duplicates: number;
  readonly smallFiles: number;
  readonly smallBytes: number;
  readonly liveFiles: number;
  readonly liveBytes: number;
  readonly mountpoint: string | null;
  readonly restarts: number;
}

const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const LINE_EVERY_MS = 2000;

export class DemoScreen {
  readonly #out: NodeJS.WriteStream;
  readonly #live: boolean;
  #drawn = 0;
  #lastLineMs = -Infinity;
  #lastPhase: DemoProgress['phase'] | undefined;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
    this.#live = out.isTTY;
  }

  show(progress: DemoProgress): void {
    if (this.#live) this.#redraw(block(progress));
    else if (progress.phase !== this.#lastPhase || performance.now() - this.#lastLineMs >= LINE_EVERY_MS) {
      this.#lastLineMs = performance.now();
      this.#lastPhase = progress.phase;
      this.#out.write(`${line(progress)}\n`);
    }
  }

  /** A line that stays. */
  say(text: string): void {
    this.#erase();
    this.#out.write(`${text}\n`);
  }

  #redraw(lines: readonly string[]): void {
    this.#erase();
    const width = this.#out.columns > 0 ? this.#out.columns : 100;
    this.#out.write(lines.map((text) => `${text.slice(0, width - 1)}\n`).join(''));
    this.#drawn = lines.length;
  }

  #erase(): void {
    if (this.#drawn > 0) this.#out.write(`\x1b[${this.#drawn}A\x1b[J`);
    this.#drawn = 0;
  }
}

function line(p: DemoProgress): string {
  return (
    `${String(Math.round(p.seconds)).padStart(4)} s  ${p.phase}: ${counted(p.readings, 'reading')} (${count.format(p.readingsPerSecond)}/s), ` +
    `spool ${formatBytes(p.spoolBytes)}, landed ${counted(p.landed, 'row')} in ${counted(p.smallFiles, 'small file')}, ` +
    `table ${counted(p.liveFiles, 'file')} ${formatBytes(p.liveBytes)}`
  );
}

function block(p: DemoProgress): string[] {
  const left =
    p.secondsLeft === undefined ? 'Ctrl-C ends it in order' : `${Math.max(0, Math.round(p.secondsLeft))} s left`;
  return [
    `penstock  ${p.phase}  ${Math.round(p.seconds)} s  (${left})${p.restarts > 0 ? `  ${p.restarts} restarts` : ''}`,
    `  edge      ${count.format(p.readings).padStart(14)} readings    ${count.format(p.readingsPerSecond)}/s`,
    `  spool     ${formatBytes(p.spoolBytes).padStart(14)}             ${count.format(p.notDelivered)} not delivered yet`,
    `  landed    ${count.format(p.landed).padStart(14)} rows        ${count.format(p.smallFiles)} small files, ${formatBytes(p.smallBytes)}`,
    `  compacted ${count.format(p.liveFiles).padStart(14)} live files  ${formatBytes(p.liveBytes)}   ${count.format(p.duplicates)} duplicates, ${count.format(p.quarantined)} quarantined`,
    `  mount     ${p.mountpoint ?? 'none on this machine'}`,
  ];
}
