/** What a volume can be asked for: access modes, the kind of access, and its capacity. */
import { isCode } from '../../lib/errors.ts';
import { formatBytes } from '../../lib/units.ts';
import { QUOTA_MAX } from '../../lib/volume/quota.ts';
import { parseMountOptions } from '../mount-options.ts';
import type { MountOptions } from '../mount-options.ts';
import type { CapacityRange, VolumeCapability } from './protocol.ts';
import { CsiError, invalid, Status } from './status.ts';

/** Whether the mode lets a node write, and whether other nodes may use the volume beside it. */
interface AccessMode {
  readonly writes: boolean;
  readonly manyNodes: boolean;
  /** One pod only (RWOP). */
  readonly onePod: boolean;
}

const MODES: Readonly<Record<string, AccessMode>> = {
  SINGLE_NODE_WRITER: { writes: true, manyNodes: false, onePod: false },
  SINGLE_NODE_READER_ONLY: { writes: false, manyNodes: false, onePod: false },
  MULTI_NODE_READER_ONLY: { writes: false, manyNodes: true, onePod: false },
  MULTI_NODE_SINGLE_WRITER: { writes: true, manyNodes: true, onePod: false },
  MULTI_NODE_MULTI_WRITER: { writes: true, manyNodes: true, onePod: false },
  SINGLE_NODE_SINGLE_WRITER: { writes: true, manyNodes: false, onePod: true },
  SINGLE_NODE_MULTI_WRITER: { writes: true, manyNodes: false, onePod: false },
};
const FS_TYPES = ['', 'penstock', 'fuse.penstock'];

/** `mountOptions` of a storage class or persistent volume. */
const MOUNT_FLAGS = ['ro', 'rw', 'writeback', 'openCache', 'passthrough=read', 'passthrough=off'];
const MOUNT_KEYS = ['cacheGroup', 'peerListen'];

export interface Capability {
  readonly modeName: string;
  readonly mode: AccessMode;
  readonly readOnly: boolean;
  readonly mountFlags: readonly string[];
  /** The same, parsed. */
  readonly mountOptions: MountOptions;
}

/** What is wrong with a capability, in words; undefined when the driver has it. */
function objection(capability: VolumeCapability): string | undefined {
  if (capability.block !== undefined && capability.block !== null) {
    return 'block volumes are not supported: a Penstock volume is a file system (volumeMode: Filesystem)';
  }
  if (capability.mount === undefined || capability.mount === null) return 'the capability has no access type';
  const mode = capability.accessMode?.mode;
  if (mode === undefined || MODES[mode] === undefined) return `access mode ${mode ?? 'is missing'}: not a known mode`;
  const { fsType, mountFlags } = capability.mount;
  if (!FS_TYPES.includes(fsType)) return `fsType '${fsType}': leave it out, a Penstock volume has no other`;
  const unknown = mountFlags.find((flag) => !isKnownFlag(flag));
  if (unknown !== undefined) {
    const expected = [...MOUNT_FLAGS, ...MOUNT_KEYS.map((key) => `${key}=...`)].join(', ');
    return `mount option '${unknown}': expected one of ${expected}`;
  }
  try {
    optionsOf(mountFlags);
    return undefined;
  } catch (error) {
    if (isCode(error, 'usage')) return `mount option ${error.message}`;
    throw error;
  }
}

function isKnownFlag(flag: string): boolean {
  const [key = '', ...value] = flag.split('=');
  return MOUNT_FLAGS.includes(flag) || (MOUNT_KEYS.includes(key) && value.length > 0 && !flag.includes(','));
}

/** Throws `usage`. */
function optionsOf(mountFlags: readonly string[]): MountOptions {
  return parseMountOptions(mountFlags.filter((flag) => flag !== 'rw'));
}

/** Throws INVALID_ARGUMENT. */
export function parseCapability(capability: VolumeCapability | null): Capability {
  if (capability === null) throw invalid('the volume capability is missing');
  const wrong = objection(capability);
  if (wrong !== undefined) throw invalid(wrong);
  const modeName = capability.accessMode?.mode ?? '';
  const mode = MODES[modeName];
  if (mode === undefined) throw invalid('access mode is missing');
  const mountFlags = capability.mount?.mountFlags ?? [];
  const mountOptions = optionsOf(mountFlags);
  return { modeName, mode, readOnly: !mode.writes || mountOptions.readOnly === true, mountFlags, mountOptions };
}

/** Throws INVALID_ARGUMENT when there is none, or one that no volume has. */
export function assertCapabilities(capabilities: readonly VolumeCapability[]): void {
  if (capabilities.length === 0) throw invalid('the volume capabilities are missing');
  const wrong = capabilitiesObjection(capabilities);
  if (wrong !== undefined) throw invalid(wrong);
}

export function capabilitiesObjection(capabilities: readonly VolumeCapability[]): string | undefined {
  return capabilities.map(objection).find((wrong) => wrong !== undefined);
}

/** The bytes that a range asks for; 0 means no limit. Throws OUT_OF_RANGE, INVALID_ARGUMENT. */
export function wantedCapacity(range: CapacityRange | null): number {
  const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
  if (requiredBytes < 0 || limitBytes < 0) throw invalid('a capacity is not negative');
  // A limit may be any number: what is asked for within it is not.
  if (requiredBytes > QUOTA_MAX || (requiredBytes === 0 && limitBytes > QUOTA_MAX)) {
    throw new CsiError(Status.OUT_OF_RANGE, `a capacity is at most ${QUOTA_MAX} bytes`);
  }
  if (limitBytes !== 0 && requiredBytes > limitBytes) {
    throw new CsiError(Status.OUT_OF_RANGE, `${requiredBytes} bytes are required, but the limit is ${limitBytes}`);
  }
  return requiredBytes === 0 ? limitBytes : requiredBytes;
}

/** Whether a volume of this capacity is what the range asks for. */
export function fitsRange(capacityBytes: number, range: CapacityRange | null): boolean {
  const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
  if (capacityBytes === 0) return limitBytes === 0;
  return capacityBytes >= requiredBytes && (limitBytes === 0 || capacityBytes <= limitBytes);
}

export function describeCapacity(capacityBytes: number): string {
  return capacityBytes === 0 ? 'no limit' : formatBytes(capacityBytes);
}
