/**
 * Time that no setting of a clock moves: which boot this is, and how long ago it was. The wall clock of an edge machine may say 1970
 * until the network is there, and any other year on a bad day.
 */
import { readFileSync } from 'node:fs';
import { uptime } from 'node:os';

export interface BootTime {
  /** 16 bytes; the same for every process of a boot. */
  readonly id: Buffer;
  /** Milliseconds since the boot, sleep included. */
  uptimeMs(): number;
}

export const systemBoot: BootTime = {
  get id() {
    return (cachedId ??= readBootId());
  },
  uptimeMs: () => uptime() * 1000,
};

let cachedId: Buffer | undefined;

/**
 * Linux gives every boot an id. Elsewhere the time of the boot stands in for it; it moves when the clock is set, and an end mark that
 * looks foreign for that reason costs a scan, no data.
 */
function readBootId(): Buffer {
  try {
    const text = readFileSync('/proc/sys/kernel/random/boot_id', 'ascii');
    return Buffer.from(text.replaceAll('-', '').trim(), 'hex').subarray(0, 16);
  } catch {
    const id = Buffer.alloc(16);
    id.writeDoubleBE(Math.round((Date.now() / 1000 - uptime()) / 60));
    return id;
  }
}
