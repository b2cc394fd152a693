/**
 * The controller service: volumes and snapshots are made, removed, listed, and volumes grow. Each call opens the engine that its secrets name and
 * closes it, so one driver serves any number of engines and holds nothing between calls.
 *
 * Listing volumes and looking at one carry no secrets (the specification has none there): they need the driver's own (`--secrets`), and are offered only
 * with them.
 * Invariants: a call repeated gives the same answer; any number of controllers may run at once (provision.ts, removal.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { withEngine } from './backend.ts';
import { assertCapabilities, capabilitiesObjection, wantedCapacity } from './capabilities.ts';
import { StoreConditions } from './condition.ts';
import { expandVolume } from './expand.ts';
import { InFlight } from './in-flight.ts';
import { pageOf } from './page.ts';
import { parseParameters, refuseSnapshotParameters } from './parameters.ts';
import type {
  ControllerExpandVolumeRequest,
  ControllerGetVolumeRequest,
  CreateSnapshotRequest,
  CreateVolumeRequest,
  DeleteSnapshotRequest,
  DeleteVolumeRequest,
  ListSnapshotsRequest,
  ListVolumesRequest,
  SnapshotMessage,
  StringMap,
  ValidateVolumeCapabilitiesRequest,
  VolumeContentSource,
  VolumeMessage,
} from './protocol.ts';
import { createVolume } from './provision.ts';
import { Records } from './records.ts';
import type { SnapshotRecord, VolumeRecord, VolumeSource } from './records.ts';
import { deleteSnapshot, deleteVolume } from './removal.ts';
import { parseSecrets } from './secrets.ts';
import type { Secrets } from './secrets.ts';
import { createSnapshot } from './snapshots.ts';
import { findMember } from './source.ts';
import { CsiError, invalid, Status } from './status.ts';
import { idOf, isRequestName, parseSnapshotId, parseVolumeId, placeName, recordNameFor } from './volume-id.ts';
import type { Place } from './volume-id.ts';

export interface ControllerOptions {
  readonly clock: Clock;
  /** Used where a call brings none. */
  readonly secrets?: StringMap;
}

export class Controller {
  readonly #options: ControllerOptions;
  readonly #inFlight = new InFlight();

  constructor(options: ControllerOptions) {
    this.#options = options;
  }

  controllerGetCapabilities(): object {
    const looking = this.#options.secrets === undefined ? [] : ['LIST_VOLUMES', 'GET_VOLUME', 'VOLUME_CONDITION'];
    const types = [
      ...['CREATE_DELETE_VOLUME', 'EXPAND_VOLUME', 'CLONE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
      ...['CREATE_DELETE_SNAPSHOT', 'LIST_SNAPSHOTS', 'GET_SNAPSHOT', ...looking],
    ];
    return { capabilities: types.map((type) => ({ rpc: { type } })) };
  }

  async createVolume(request: CreateVolumeRequest): Promise<object> {
    const { name, capacityRange } = request;
    assertName(name);
    assertCapabilities(request.volumeCapabilities);
    wantedCapacity(capacityRange);
    const { options, context } = parseParameters(request.parameters);
    const source = parseSource(request.volumeContentSource);
    const secrets = this.#secrets(request.secrets);
    const volume = recordNameFor(name);
    return this.#inFlight.run(`volume ${volume}`, async () => {
      const wish = { name, volume, capacityRange, options, context, source };
      return { volume: toMessage(await createVolume(secrets, wish, this.#options.clock)) };
    });
  }

  async deleteVolume({ volumeId, secrets }: DeleteVolumeRequest): Promise<object> {
    if (volumeId === '') throw invalid('the volume id is missing');
    const place = parseVolumeId(volumeId);
    // One that was never made is one that is gone.
    if (place === undefined) return {};
    const parsed = this.#secrets(secrets);
    await this.#inFlight.run(placeName(place), () => deleteVolume(parsed, place, this.#options.clock));
    return {};
  }

  async validateVolumeCapabilities(request: ValidateVolumeCapabilitiesRequest): Promise<object> {
    const { volumeContext, volumeCapabilities, parameters } = request;
    if (volumeCapabilities.length === 0) throw invalid('the volume capabilities are missing');
    const place = existing(request.volumeId);
    const secrets = this.#secrets(request.secrets);
    const there = await withEngine(secrets, async (engine) =>
      place.folder === undefined
        ? (await readFormat(engine, place.volume)) !== null
        : (await findMember(new Records(engine).volumes, place))?.stored.record.state === 'ready',
    );
    if (!there) throw absent(request.volumeId);
    const message = capabilitiesObjection(volumeCapabilities);
    return message === undefined ? { confirmed: { volumeContext, volumeCapabilities, parameters } } : { message };
  }

  async controllerExpandVolume(request: ControllerExpandVolumeRequest): Promise<object> {
    const { capacityRange } = request;
    if (capacityRange === null) throw invalid('the capacity range is missing');
    if (request.volumeCapability !== null) assertCapabilities([request.volumeCapability]);
    wantedCapacity(capacityRange);
    const place = existing(request.volumeId);
    const secrets = this.#secrets(request.secrets);
    const capacityBytes = await this.#inFlight.run(placeName(place), () =>
      expandVolume(secrets, place, capacityRange, this.#options.clock),
    );
    if (capacityBytes === undefined) throw absent(request.volumeId);
    return { capacityBytes, nodeExpansionRequired: false };
  }

  /** With the condition of each: whether its object store answers. */
  async listVolumes(request: ListVolumesRequest): Promise<object> {
    const secrets = this.#ownSecrets();
    return withEngine(secrets, async (engine) => {
      const records = new Records(engine);
      const { page, nextToken } = pageOf(await records.volumes.all(), request, ({ state }) => state === 'ready');
      const homes = await records.homes.all();
      const conditions = new StoreConditions(secrets);
      const entries = page.map(async (record) => {
        const volumeCondition = await conditions.of(homes.get(record.home)?.store);
        return { volume: toMessage(record), status: { publishedNodeIds: [], volumeCondition } };
      });
      return { entries: await Promise.all(entries), nextToken };
    });
  }

  async controllerGetVolume({ volumeId }: ControllerGetVolumeRequest): Promise<object> {
    const place = existing(volumeId);
    const secrets = this.#ownSecrets();
    return withEngine(secrets, async (engine) => {
      const records = new Records(engine);
      const record = (await findMember(records.volumes, place))?.stored.record;
      if (record?.state !== 'ready') throw absent(volumeId);
      const home = await records.homes.read(record.home);
      const volumeCondition = await new StoreConditions(secrets).of(home?.record.store);
      return { volume: toMessage(record), status: { publishedNodeIds: [], volumeCondition } };
    });
  }

  async createSnapshot(request: CreateSnapshotRequest): Promise<object> {
    const { name, sourceVolumeId: source } = request;
    assertName(name);
    existing(source);
    refuseSnapshotParameters(request.parameters);
    const secrets = this.#secrets(request.secrets);
    const snapshot = recordNameFor(name);
    return this.#inFlight.run(`snapshot ${snapshot}`, async () => ({
      snapshot: toSnapshotMessage(await createSnapshot(secrets, { name, snapshot, source }, this.#options.clock)),
    }));
  }

  async deleteSnapshot({ snapshotId, secrets }: DeleteSnapshotRequest): Promise<object> {
    if (snapshotId === '') throw invalid('the snapshot id is missing');
    const place = parseSnapshotId(snapshotId);
    if (place === undefined) return {};
    const parsed = this.#secrets(secrets);
    await this.#inFlight.run(placeName(place), () => deleteSnapshot(parsed, place, this.#options.clock));
    return {};
  }

  async listSnapshots(request: ListSnapshotsRequest): Promise<object> {
    const { sourceVolumeId, snapshotId } = request;
    const all = await withEngine(this.#secrets(request.secrets), (engine) => new Records(engine).snapshots.all());
    const { page, nextToken } = pageOf(
      all,
      request,
      (record) =>
        record.state === 'ready' &&
        (snapshotId === '' || idOf(record) === snapshotId) &&
        (sourceVolumeId === '' || record.source === sourceVolumeId),
    );
    return { entries: page.map((record) => ({ snapshot: toSnapshotMessage(record) })), nextToken };
  }

  async getSnapshot({ snapshotId, secrets }: DeleteSnapshotRequest): Promise<object> {
    if (snapshotId === '') throw invalid('the snapshot id is missing');
    const place = parseSnapshotId(snapshotId);
    const found = await withEngine(this.#secrets(secrets), (engine) =>
      findMember(new Records(engine).snapshots, place),
    );
    if (found?.stored.record.state !== 'ready') {
      throw new CsiError(Status.NOT_FOUND, `there is no snapshot '${snapshotId}'`);
    }
    return { snapshot: toSnapshotMessage(found.stored.record) };
  }

  #secrets(given: StringMap): Secrets {
    return parseSecrets(given, this.#options.secrets);
  }

  #ownSecrets(): Secrets {
    return parseSecrets({}, this.#options.secrets);
  }
}

function assertName(name: string): void {
  if (!isRequestName(name)) throw invalid('the name is missing, or longer than 128 bytes');
}

/** The volume of an id. Throws INVALID_ARGUMENT for none, NOT_FOUND for one that is not ours. */
export function existing(volumeId: string): Place {
  if (volumeId === '') throw invalid('the volume id is missing');
  const place = parseVolumeId(volumeId);
  if (place === undefined) throw absent(volumeId);
  return place;
}

export function absent(volumeId: string): CsiError {
  return new CsiError(Status.NOT_FOUND, `there is no volume '${volumeId}'`);
}

function parseSource(content: VolumeContentSource | null): VolumeSource | null {
  if (content === null) return null;
  const { snapshot, volume } = content;
  const [kind, id] = snapshot
    ? ['snapshot' as const, snapshot.snapshotId]
    : ['volume' as const, volume?.volumeId ?? ''];
  if (id === '') throw invalid('the content source has no id');
  return { kind, id };
}

function toMessage(record: VolumeRecord): VolumeMessage {
  const { capacityBytes, context, source } = record;
  const contentSource =
    source?.kind === 'snapshot' ? { snapshot: { snapshotId: source.id } } : { volume: { volumeId: source?.id ?? '' } };
  return {
    ...{ capacityBytes, volumeId: idOf(record), volumeContext: context },
    ...(source !== null && { contentSource }),
  };
}

function toSnapshotMessage(record: SnapshotRecord): SnapshotMessage {
  const { capacityBytes, source, createdMs } = record;
  return {
    ...{ sizeBytes: capacityBytes, snapshotId: idOf(record), sourceVolumeId: source, readyToUse: true },
    creationTime: { seconds: Math.floor(createdMs / 1000), nanos: Math.floor(createdMs % 1000) * 1_000_000 },
  };
}
