/** The decoder for the values of a dataset, with a library that is loaded only where it is configured. */
import { systemClock } from '../../lib/clock.ts';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { RegistryDecoder } from './registry-decoder.ts';
import { SchemaRegistry } from './registry.ts';
import type { ValueDecoder } from './value-decoder.ts';

/** null: JSON, which the staging area reads itself. */
export async function openDecoder({ format, registry }: DatasetConfig['value']): Promise<ValueDecoder | null> {
  if (format === 'json' || registry === undefined) return null;
  const schemas = new SchemaRegistry(registry);
  if (format === 'avro') {
    const { compileAvro } = await import('./avro-values.ts');
    return new RegistryDecoder(schemas, 'AVRO', compileAvro, systemClock);
  }
  const { compileProtobuf } = await import('./protobuf-values.ts');
  return new RegistryDecoder(schemas, 'PROTOBUF', compileProtobuf, systemClock);
}
