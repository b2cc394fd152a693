/**
 * Volumes that a pod's specification has written in it (`csi:` inline, CSI's ephemeral volumes): the publish makes one, with the life of the pod, and the
 * unpublish removes it. Neither is a call of the controller, and the second brings no secrets: the node needs its own (`--secrets`).
 *
 * Attributes: `capacity` (as 10GiB, or as Kubernetes writes it, 10Gi), and the parameters of a storage class (parameters.ts).
 * Failure: an unpublish that could not remove the volume is repeated. A node that never comes back leaves its volumes, as records that
 * `ListVolumes` shows.
 */
import type { Clock } from '../../lib/clock.ts';
import { isCode } from '../../lib/errors.ts';
import { parseBytes } from '../../lib/units.ts';
import { withEngine } from './backend.ts';
import { parseContext, parseParameters } from './parameters.ts';
import type { NodeContext } from './parameters.ts';
import type { StringMap } from './protocol.ts';
import { createVolume } from './provision.ts';
import { Records } from './records.ts';
import { deleteVolume } from './removal.ts';
import { parseSecrets } from './secrets.ts';
import type { Secrets } from './secrets.ts';
import { CsiError, invalid, Status } from './status.ts';
import { recordNameFor } from './volume-id.ts';
import type { Place } from './volume-id.ts';

const KEY = 'csi.storage.k8s.io/ephemeral';
/** The kubelet's: of the pod and the name of the volume in it. */
const ID = /^csi-[0-9a-f]{64}$/;

export function isEphemeral(context: StringMap): boolean {
  return context[KEY] === 'true';
}

export function isEphemeralId(volumeId: string): boolean {
  return ID.test(volumeId);
}

interface EphemeralVolume {
  readonly place: Place;
  readonly context: NodeContext;
}

export class EphemeralVolumes {
  readonly #secrets: StringMap | undefined;
  readonly #clock: Clock;

  constructor(secrets: StringMap | undefined, clock: Clock) {
    this.#secrets = secrets;
    this.#clock = clock;
  }

  async make(id: string, attributes: StringMap): Promise<EphemeralVolume> {
    if (!isEphemeralId(id)) throw invalid(`'${id}' is not the id of an inline volume`);
    const secrets = this.#ownSecrets();
    const { capacity, ...parameters } = attributes;
    const { options, context } = parseParameters(parameters);
    const wish = { name: id, volume: recordNameFor(id), options, context, source: null };
    const capacityRange = { requiredBytes: parseCapacity(capacity), limitBytes: 0 };
    const { home, folder } = await createVolume(secrets, { ...wish, capacityRange }, this.#clock);
    return { place: { volume: home, folder }, context: parseContext(context) };
  }

  /** Undefined when it was removed, or never made. */
  async find(id: string): Promise<Place | undefined> {
    const stored = await withEngine(this.#ownSecrets(), (engine) =>
      new Records(engine).volumes.read(recordNameFor(id)),
    );
    return stored === null ? undefined : { volume: stored.record.home, folder: stored.record.folder };
  }

  remove(place: Place): Promise<void> {
    return deleteVolume(this.#ownSecrets(), place, this.#clock);
  }

  #ownSecrets(): Secrets {
    if (this.#secrets !== undefined) return parseSecrets({}, this.#secrets);
    throw new CsiError(
      Status.FAILED_PRECONDITION,
      'inline volumes need secrets of the node service (--secrets): use a generic ephemeral volume instead',
    );
  }
}

function parseCapacity(text: string | undefined): number {
  if (text === undefined) throw invalid("attribute 'capacity' is missing: an inline volume has a limit, as 10Gi");
  try {
    const bytes = parseBytes(
      text
        .trim()
        .replace(/([KMGT]i?)$/, '$1B')
        .replace('KB', 'kB'),
    );
    if (bytes > 0) return bytes;
  } catch (error) {
    if (!isCode(error, 'config')) throw error;
  }
  throw invalid(`attribute 'capacity': '${text}' is not a size above 0, as 10Gi`);
}
