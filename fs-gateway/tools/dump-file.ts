/**
 * The file of a metadata dump: NDJSON, zstd.
 *
 *   first line   {"kind":"penstock-volume-dump","version":1,"volume":NAME,"id":UUID,"startedMs":N}
 *   then lines   ["v", bucket, field, base64 | null]   a record; null: there is none (any more)
 *                ["n", bucket, field, decimal]         a number
 *                ["m", bucket, field, decimal]         a number that is at least this
 *                ["c", bucket]                         all that was said of this bucket so far is void
 *   last line    {"kind":"end","lines":N,"sha256":HEX,"consistent":BOOL,"takenMs":N}   of all bytes before it
 *
 * Buckets are without the hash tag of the volume, so that a dump can be loaded under another name. Later lines replace earlier ones.
 * A file without its last line, or whose checksum differs, is `corrupt` and nothing of it is loaded.
 * Limits: a line is at most LINE_BYTES_MAX.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createZstdCompress, createZstdDecompress } from 'node:zlib';
import { z } from 'zod';
import { syncDirectory } from '../../lib/durable-files.ts';
import { describeError, fromSystemError, isCode, PenstockError, systemCode } from '../../lib/errors.ts';

const KIND = 'penstock-volume-dump';
const VERSION = 1;
/** A value of 1 MiB in base64, and its address. */
const LINE_BYTES_MAX = 2 * 2 ** 20;
/** Lines gathered into one write. */
const CHUNK_CHARS = 65_536;

const headerSchema = z.object({
  kind: z.literal(KIND),
  version: z.number().int(),
  volume: z.string(),
  id: z.string(),
  startedMs: z.number(),
});
const endSchema = z.object({
  kind: z.literal('end'),
  lines: z.number().int(),
  sha256: z.string(),
  consistent: z.boolean(),
  takenMs: z.number(),
});
const lineSchema = z.union([
  z.tuple([z.literal('v'), z.string(), z.string(), z.string().nullable()]),
  z.tuple([z.enum(['n', 'm']), z.string(), z.string(), z.string().regex(/^-?\d{1,19}$/)]),
  z.tuple([z.literal('c'), z.string()]),
]);

export type DumpLine = z.infer<typeof lineSchema>;
export type DumpHeader = Omit<z.infer<typeof headerSchema>, 'kind' | 'version'>;
export type DumpEnd = Omit<z.infer<typeof endSchema>, 'kind' | 'lines' | 'sha256'>;

/** Writes the file as a whole, or not at all; `end` is asked when all lines are written. Returns its size. */
export async function writeDump(
  path: string,
  header: DumpHeader,
  lines: AsyncIterable<DumpLine>,
  end: () => DumpEnd,
): Promise<number> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    // It holds names and small files' content: as private as the volume's root.
    const file = createWriteStream(temporary, { flags: 'wx', mode: 0o600 });
    await pipeline(encode(header, lines, end), createZstdCompress(), file);
    const handle = await open(temporary, 'r');
    await handle.sync().finally(() => handle.close());
    await rename(temporary, path);
    await syncDirectory(dirname(path));
    return (await stat(path)).size;
  } catch (error) {
    await rm(temporary, { force: true });
    throw systemCode(error) === undefined ? error : fromSystemError(error, `dump ${path}`);
  }
}

async function* encode(header: DumpHeader, lines: AsyncIterable<DumpLine>, end: () => DumpEnd): AsyncGenerator<Buffer> {
  const hash = createHash('sha256');
  let text = `${JSON.stringify({ kind: KIND, version: VERSION, ...header })}\n`;
  let count = 0;
  const take = (): Buffer => {
    const chunk = Buffer.from(text);
    hash.update(chunk);
    text = '';
    return chunk;
  };
  for await (const line of lines) {
    count++;
    text += `${JSON.stringify(line)}\n`;
    if (text.length >= CHUNK_CHARS) yield take();
  }
  yield take();
  yield Buffer.from(`${JSON.stringify({ kind: 'end', lines: count, sha256: hash.digest('hex'), ...end() })}\n`);
}

/** Reads the whole file and checks it. Throws `corrupt`, `unsupported` for a newer version, `not-found`. */
export async function verifyDump(path: string): Promise<{ readonly header: DumpHeader; readonly end: DumpEnd }> {
  const hash = createHash('sha256');
  let header: DumpHeader | undefined;
  let end: z.infer<typeof endSchema> | undefined;
  let lines = 0;
  for await (const text of rawLines(path)) {
    if (end !== undefined) throw damaged(path, 'it goes on behind its last line');
    if (header === undefined) header = parseHeader(path, text);
    else if (text.startsWith('{')) {
      end = parseWith(path, endSchema, text);
      continue;
    } else lines++;
    hash.update(text).update('\n');
  }
  if (header === undefined || end === undefined) throw damaged(path, 'its last line is missing');
  if (end.lines !== lines || end.sha256 !== hash.digest('hex')) throw damaged(path, 'its checksum does not match');
  return { header, end };
}

/** The lines of a file that `verifyDump` has seen. */
export async function* readDump(path: string): AsyncGenerator<DumpLine> {
  for await (const text of rawLines(path)) if (text.startsWith('[')) yield parseWith(path, lineSchema, text);
}

function parseHeader(path: string, text: string): DumpHeader {
  const known = z.object({ kind: z.literal(KIND), version: z.number() }).safeParse(parseJson(text));
  if (!known.success) throw damaged(path, 'it is no dump of a volume');
  if (known.data.version > VERSION) {
    throw new PenstockError(
      'unsupported',
      `${path} has version ${known.data.version}; this Penstock reads versions up to ${VERSION}: upgrade it`,
    );
  }
  return parseWith(path, headerSchema, text);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parseWith<T>(path: string, schema: z.ZodType<T>, text: string): T {
  const parsed = schema.safeParse(parseJson(text));
  if (parsed.success) return parsed.data;
  throw damaged(path, `a line is none of a dump: ${text.slice(0, 80)}`);
}

function damaged(path: string, why: string, cause?: unknown): PenstockError {
  return new PenstockError('corrupt', `${path} is damaged: ${why}`, { cause });
}

async function* rawLines(path: string): AsyncGenerator<string> {
  const file = createReadStream(path);
  const plain = createZstdDecompress();
  file.on('error', (error) => plain.destroy(error));
  let rest: Buffer = Buffer.alloc(0);
  try {
    for await (const chunk of file.pipe(plain) as AsyncIterable<Buffer>) {
      // A zlib stream without an encoding gives buffers.
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      let from = 0;
      for (let at = rest.indexOf(10); at >= 0; at = rest.indexOf(10, from)) {
        yield rest.toString('utf8', from, at);
        from = at + 1;
      }
      rest = rest.subarray(from);
      if (rest.length > LINE_BYTES_MAX) throw damaged(path, 'a line is too long');
    }
  } catch (error) {
    if (isCode(error, 'corrupt', 'unsupported')) throw error;
    if (systemCode(error)?.startsWith('E') === true) throw fromSystemError(error, path);
    throw damaged(path, describeError(error), error);
  } finally {
    file.destroy();
    plain.destroy();
  }
  if (rest.length > 0) throw damaged(path, 'it ends in the middle of a line');
}
