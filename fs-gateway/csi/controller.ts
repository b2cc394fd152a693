/**
 * The controller service: volumes are made, removed, listed and grown. Each call opens the engine that its secrets name and closes it, so one
 * driver serves any number of engines and holds nothing between calls.
 *
 * Listing and looking carry no secrets (the specification has none there): they need the driver's own (`--secrets`), and are offered only with them.
 * Invariants: a call repeated gives the same answer; any number of controllers may run at once (provision.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { assertCapabilities, capabilitiesObjection, wantedCapacity } from './capabilities.ts';
import { InFlight } from './in-flight.ts';
import { assertStore, createVolume, deleteVolume, expandVolume, withEngine } from './provision.ts';
import { parseParameters } from './parameters.ts';
import type {
  ControllerExpandVolumeRequest,
  ControllerGetVolumeRequest,
  CreateVolumeRequest,
  DeleteVolumeRequest,
  ListVolumesRequest,
  StringMap,
  ValidateVolumeCapabilitiesRequest,
  VolumeMessage,
} from './protocol.ts';
import { parseSecrets } from './secrets.ts';
import type { Secrets } from './secrets.ts';
import { CsiError, invalid, Status } from './status.ts';
import { isRequestName, parseVolumeId, volumeIdOf, volumeNameFor } from './volume-id.ts';
import { VolumeRecords } from './volume-records.ts';
import type { VolumeRecord } from './volume-records.ts';

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
    const looking = this.#options.secrets === undefined ? [] : ['LIST_VOLUMES', 'GET_VOLUME'];
    const types = ['CREATE_DELETE_VOLUME', 'EXPAND_VOLUME', 'SINGLE_NODE_MULTI_WRITER', ...looking];
    return { capabilities: types.map((type) => ({ rpc: { type } })) };
  }

  async createVolume(request: CreateVolumeRequest): Promise<object> {
    const { name, capacityRange } = request;
    if (!isRequestName(name)) throw invalid('the name is missing, or longer than 128 bytes');
    assertCapabilities(request.volumeCapabilities);
    wantedCapacity(capacityRange);
    if (request.volumeContentSource !== null) {
      throw invalid('a volume from a snapshot or another volume: this driver does not offer it');
    }
    const { options, context } = parseParameters(request.parameters);
    const secrets = this.#secrets(request.secrets);
    const volume = volumeNameFor(name);
    return this.#inFlight.run(volume, async () => {
      const wish = { name, volume, capacityRange, options, context };
      return { volume: toMessage(await createVolume(secrets, wish, this.#options.clock)) };
    });
  }

  async deleteVolume({ volumeId, secrets }: DeleteVolumeRequest): Promise<object> {
    if (volumeId === '') throw invalid('the volume id is missing');
    const volume = parseVolumeId(volumeId);
    // One that was never made is one that is gone.
    if (volume === undefined) return {};
    const parsed = this.#secrets(secrets);
    await this.#inFlight.run(volume, () => deleteVolume(parsed, volume));
    return {};
  }

  async validateVolumeCapabilities(request: ValidateVolumeCapabilitiesRequest): Promise<object> {
    const { volumeContext, volumeCapabilities, parameters } = request;
    if (volumeCapabilities.length === 0) throw invalid('the volume capabilities are missing');
    const volume = existing(request.volumeId);
    const secrets = this.#secrets(request.secrets);
    await withEngine(secrets, async (engine) => {
      if ((await readFormat(engine, volume)) === null) throw absent(request.volumeId);
    });
    const message = capabilitiesObjection(volumeCapabilities);
    return message === undefined ? { confirmed: { volumeContext, volumeCapabilities, parameters } } : { message };
  }

  async controllerExpandVolume(request: ControllerExpandVolumeRequest): Promise<object> {
    const { capacityRange } = request;
    if (capacityRange === null) throw invalid('the capacity range is missing');
    if (request.volumeCapability !== null) assertCapabilities([request.volumeCapability]);
    wantedCapacity(capacityRange);
    const volume = existing(request.volumeId);
    const secrets = this.#secrets(request.secrets);
    const capacityBytes = await this.#inFlight.run(volume, () => expandVolume(secrets, volume, capacityRange));
    if (capacityBytes === undefined) throw absent(request.volumeId);
    return { capacityBytes, nodeExpansionRequired: false };
  }

  async listVolumes({ maxEntries, startingToken }: ListVolumesRequest): Promise<object> {
    if (maxEntries < 0) throw invalid('max_entries is not negative');
    const after = startingToken === '' ? '' : parseVolumeId(startingToken);
    if (after === undefined) throw new CsiError(Status.ABORTED, 'the starting token is not one that this driver gave');
    const all = await withEngine(this.#ownSecrets(), (engine) => new VolumeRecords(engine).all());
    const rest = all.filter(({ volume, state }) => state === 'ready' && volume > after);
    const page = maxEntries === 0 ? rest : rest.slice(0, maxEntries);
    const last = page.at(-1);
    return {
      entries: page.map((record) => ({ volume: toMessage(record) })),
      nextToken: last !== undefined && page.length < rest.length ? volumeIdOf(last.volume) : '',
    };
  }

  /** With its condition: whether its metadata and its object store answer. */
  async controllerGetVolume({ volumeId }: ControllerGetVolumeRequest): Promise<object> {
    const volume = existing(volumeId);
    const secrets = this.#ownSecrets();
    return withEngine(secrets, async (engine) => {
      const stored = await new VolumeRecords(engine).read(volume);
      if (stored?.record.state !== 'ready') throw absent(volumeId);
      const condition = await assertStore(stored.record.store, secrets).then(
        () => ({ abnormal: false, message: 'metadata and object store answer' }),
        (error: unknown) => ({ abnormal: true, message: error instanceof Error ? error.message : String(error) }),
      );
      return { volume: toMessage(stored.record), status: { publishedNodeIds: [], volumeCondition: condition } };
    });
  }

  #secrets(given: StringMap): Secrets {
    return parseSecrets(given, this.#options.secrets);
  }

  #ownSecrets(): Secrets {
    return parseSecrets({}, this.#options.secrets);
  }
}

/** The volume of an id. Throws INVALID_ARGUMENT for none, NOT_FOUND for one that is not ours. */
export function existing(volumeId: string): string {
  if (volumeId === '') throw invalid('the volume id is missing');
  const volume = parseVolumeId(volumeId);
  if (volume === undefined) throw absent(volumeId);
  return volume;
}

export function absent(volumeId: string): CsiError {
  return new CsiError(Status.NOT_FOUND, `there is no volume '${volumeId}'`);
}

function toMessage(record: VolumeRecord): VolumeMessage {
  const { capacityBytes, context } = record;
  return { capacityBytes, volumeId: volumeIdOf(record.volume), volumeContext: context };
}
