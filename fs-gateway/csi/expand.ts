/** Lets a volume grow: its record first, then the quota of its folder. */
import type { Clock } from '../../lib/clock.ts';
import { limitFolder } from '../tools/volume-folders.ts';
import { withEngine } from './backend.ts';
import { describeCapacity, wantedCapacity } from './capabilities.ts';
import type { CapacityRange } from './protocol.ts';
import { Records } from './records.ts';
import { ATTEMPTS, beingChanged } from './removal.ts';
import type { Secrets } from './secrets.ts';
import { findMember } from './source.ts';
import { CsiError, Status } from './status.ts';
import type { Place } from './volume-id.ts';

/** The capacity that the volume has afterwards; undefined when there is no such volume. Throws OUT_OF_RANGE for a limit below it. */
export async function expandVolume(
  secrets: Secrets,
  place: Place,
  range: CapacityRange,
  clock: Clock,
): Promise<number | undefined> {
  const wanted = wantedCapacity(range);
  return withEngine(secrets, async (engine) => {
    const records = new Records(engine);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const found = await findMember(records.volumes, place);
      if (found?.stored.record.state !== 'ready') return undefined;
      const { name, stored } = found;
      const { home, folder, capacityBytes: now } = stored.record;
      if (range.limitBytes !== 0 && (now === 0 || now > range.limitBytes)) {
        throw new CsiError(Status.OUT_OF_RANGE, `it has ${describeCapacity(now)}: a volume does not shrink`);
      }
      const capacityBytes = now === 0 ? 0 : Math.max(now, wanted);
      const grown = { ...stored.record, capacityBytes };
      if (capacityBytes > now && (await records.commit([records.volumes.edit(name, stored, grown)])) === null) continue;
      // Also when nothing is to grow: the call before this one may have ended between the record and the quota.
      if (capacityBytes > 0) await limitFolder({ engine, volume: home, clock }, folder, capacityBytes);
      // Another controller may have grown it meanwhile, and ours would be the smaller quota.
      const after = await findMember(records.volumes, place);
      if (after?.stored.record.capacityBytes === capacityBytes) return capacityBytes;
    }
    throw beingChanged(place.folder ?? place.volume);
  });
}
