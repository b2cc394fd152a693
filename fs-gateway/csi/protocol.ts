/**
 * The messages of csi.proto as TypeScript sees them, and the three gRPC services. proto-loader reads the file when the driver starts; it fills
 * in what a message leaves out: '' and 0, empty lists and maps, and null for a message.
 *
 * Only fields that Penstock reads or writes are declared.
 * Limits: int64 is a number here, exact up to 2^53; `capabilities.ts` refuses more.
 */
import { join } from 'node:path';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

export type StringMap = Readonly<Record<string, string>>;

export interface VolumeCapability {
  readonly block?: object | null;
  readonly mount?: { readonly fsType: string; readonly mountFlags: readonly string[] } | null;
  readonly accessMode: { readonly mode: string } | null;
}

export interface CapacityRange {
  readonly requiredBytes: number;
  readonly limitBytes: number;
}

export interface VolumeMessage {
  readonly capacityBytes: number;
  readonly volumeId: string;
  readonly volumeContext: StringMap;
  readonly contentSource?: VolumeContentSource;
}

export interface VolumeContentSource {
  readonly snapshot?: { readonly snapshotId: string } | null;
  readonly volume?: { readonly volumeId: string } | null;
}

interface WithSecrets {
  readonly secrets: StringMap;
}

export interface CreateVolumeRequest extends WithSecrets {
  readonly name: string;
  readonly capacityRange: CapacityRange | null;
  readonly volumeCapabilities: readonly VolumeCapability[];
  readonly parameters: StringMap;
  readonly volumeContentSource: VolumeContentSource | null;
}

export interface DeleteVolumeRequest extends WithSecrets {
  readonly volumeId: string;
}

export interface ValidateVolumeCapabilitiesRequest extends WithSecrets {
  readonly volumeId: string;
  readonly volumeContext: StringMap;
  readonly volumeCapabilities: readonly VolumeCapability[];
  readonly parameters: StringMap;
}

export interface ListVolumesRequest {
  readonly maxEntries: number;
  readonly startingToken: string;
}

export interface ControllerGetVolumeRequest {
  readonly volumeId: string;
}

export interface ControllerExpandVolumeRequest extends WithSecrets {
  readonly volumeId: string;
  readonly capacityRange: CapacityRange | null;
  readonly volumeCapability: VolumeCapability | null;
}

export interface CreateSnapshotRequest extends WithSecrets {
  readonly sourceVolumeId: string;
  readonly name: string;
  readonly parameters: StringMap;
}

export interface DeleteSnapshotRequest extends WithSecrets {
  readonly snapshotId: string;
}

export interface ListSnapshotsRequest extends WithSecrets {
  readonly maxEntries: number;
  readonly startingToken: string;
  readonly sourceVolumeId: string;
  readonly snapshotId: string;
}

export interface SnapshotMessage {
  readonly sizeBytes: number;
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
  readonly creationTime: { readonly seconds: number; readonly nanos: number };
  readonly readyToUse: boolean;
}

export interface NodeStageVolumeRequest extends WithSecrets {
  readonly volumeId: string;
  readonly stagingTargetPath: string;
  readonly volumeCapability: VolumeCapability | null;
  readonly volumeContext: StringMap;
}

export interface NodeUnstageVolumeRequest {
  readonly volumeId: string;
  readonly stagingTargetPath: string;
}

export interface NodePublishVolumeRequest extends WithSecrets {
  readonly volumeId: string;
  readonly stagingTargetPath: string;
  readonly targetPath: string;
  readonly volumeCapability: VolumeCapability | null;
  readonly readonly: boolean;
  readonly volumeContext: StringMap;
}

export interface NodeUnpublishVolumeRequest {
  readonly volumeId: string;
  readonly targetPath: string;
}

export interface NodeGetVolumeStatsRequest {
  readonly volumeId: string;
  readonly volumePath: string;
  readonly stagingTargetPath: string;
}

export interface NodeExpandVolumeRequest {
  readonly volumeId: string;
  readonly volumePath: string;
  readonly capacityRange: CapacityRange | null;
}

const loaded = loadSync(join(import.meta.dirname, 'csi.proto'), {
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: false,
});

export function csiService(name: 'Identity' | 'Controller' | 'Node'): ServiceDefinition {
  return loaded[`csi.v1.${name}`] as ServiceDefinition; // csi.proto declares the three as services
}
