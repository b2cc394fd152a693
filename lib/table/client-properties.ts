/** Properties by which a table of the lander tells other programs how to treat it. */

/**
 * Expiry, orphan removal and purge by other programs delete objects themselves, and a volume's directories, snapshots and clones may
 * refer to those.
 */
export const KEEPS_OBJECTS = { 'gc.enabled': 'false' } as const;

/**
 * DuckDB writes doubles in Parquet's encoding BYTE_STREAM_SPLIT, which the vectorized reader of Iceberg 1.10 for Spark refuses; its
 * other reader takes it. Files without that encoding would be larger for everybody.
 */
export const SPARK_READS = { 'read.parquet.vectorization.enabled': 'false' } as const;
