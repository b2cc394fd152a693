/**
 * What container runtimes write: a line of their log to its text, and a file's name to the container. Pure.
 *
 *   cri      2026-11-28T10:11:12.123456789Z stdout F TEXT      containerd, CRI-O (Kubernetes, design proposal "kubelet-cri-logging")
 *            P in place of F: the text goes on in the stream's next line. Further tags may follow, as F:TAG.
 *   docker   {"log":"TEXT\n","stream":"stdout","time":"2026-11-28T10:11:12.123456789Z"}      without \n, the text goes on
 *
 *   /var/log/containers/POD_NAMESPACE_CONTAINER-ID.log      a link to
 *   /var/log/pods/NAMESPACE_POD_UID/CONTAINER/N.log         N.log.20261128-101112, and with .gz, when the kubelet has rotated it
 *   /var/lib/docker/containers/ID/ID-json.log
 */
import { isUtf8 } from 'node:buffer';
import type { NewReading } from '../../spool/frame.ts';
import { readingOf, type ReadingMapping, type RejectedInput } from '../reading-parser.ts';
import type { Line } from './line-joiner.ts';

export type ContainerFormat = 'cri' | 'docker';
export type Stream = 'stdout' | 'stderr';

/** Where a message came from: of its first line, where several are joined. */
export interface Origin {
  /** As it stands in the log. */
  readonly time: string;
  readonly stream: Stream;
}

export interface ContainerLine extends Origin {
  readonly text: Buffer;
  readonly isPartial: boolean;
}

/** The fields that a file's name gives. */
export type ContainerNames = Readonly<
  Partial<Record<'namespace' | 'pod' | 'podUid' | 'container' | 'containerId', string>>
>;

const SPACE = 0x20;
const PARTIAL = 0x50;
const FULL = 0x46;
const TAG_END = 0x3a;
/** Of a character in UTF-8. */
const CONTINUATIONS_MAX = 3;
const NOTHING = Buffer.alloc(0);
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$/;
const NAME_OF_LINK =
  /\/(?<pod>[^/_]+)_(?<namespace>[^/_]+)_(?<container>[^/]+)-(?<containerId>[0-9a-f]{12,64})\.log[^/]*$/;
const NAME_OF_POD = /\/(?<namespace>[^/_]+)_(?<pod>[^/_]+)_(?<podUid>[^/_]+)\/(?<container>[^/]+)\/\d+\.log[^/]*$/;
const NAME_OF_DOCKER = /\/(?<containerId>[0-9a-f]{12,64})-json\.log[^/]*$/;

/** `bytes` is without its line end. */
export function parseContainerLine(bytes: Buffer, format: ContainerFormat): ContainerLine | RejectedInput {
  return format === 'cri' ? parseCri(bytes) : parseDocker(bytes);
}

function parseCri(bytes: Buffer): ContainerLine | RejectedInput {
  const timeEnd = bytes.indexOf(SPACE);
  const streamEnd = bytes.indexOf(SPACE, timeEnd + 1);
  const time = bytes.toString('latin1', 0, Math.max(0, timeEnd));
  const stream = bytes.toString('latin1', timeEnd + 1, Math.max(0, streamEnd));
  const tag = bytes[streamEnd + 1];
  const behindTag = bytes[streamEnd + 2];
  const isTag = (tag === PARTIAL || tag === FULL) && [SPACE, TAG_END, undefined].includes(behindTag);
  if (timeEnd < 0 || streamEnd < 0 || !TIME.test(time) || !isStream(stream) || !isTag) {
    return { reason: 'the line is none of a CRI log: expected TIME stdout|stderr P|F TEXT' };
  }
  const tagsEnd = behindTag === SPACE ? streamEnd + 2 : bytes.indexOf(SPACE, streamEnd + 1);
  return {
    time,
    stream,
    text: tagsEnd < 0 ? NOTHING : bytes.subarray(tagsEnd + 1),
    isPartial: tag === PARTIAL,
  };
}

function parseDocker(bytes: Buffer): ContainerLine | RejectedInput {
  const reason = 'the line is none of Docker\'s json-file log: expected {"log": ..., "stream": ..., "time": ...}';
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    return { reason };
  }
  if (typeof value !== 'object' || value === null || !('log' in value) || !('stream' in value) || !('time' in value)) {
    return { reason };
  }
  const { log, stream, time } = value;
  if (typeof log !== 'string' || !isStream(stream) || typeof time !== 'string' || !TIME.test(time)) return { reason };
  const text = log.replace(/\r?\n$/, '');
  return { time, stream, text: Buffer.from(text), isPartial: !log.endsWith('\n') };
}

/**
 * Runtimes cut a message at any byte. Where it became two, each has U+FFFD for its part of a character: in `isRest` at the beginning, in `isCut` at
 * the end. What is no UTF-8 elsewhere stays.
 */
export function withoutHalves(bytes: Buffer, isRest: boolean, isCut: boolean): Buffer {
  if ((!isRest && !isCut) || isUtf8(bytes)) return bytes;
  let from = 0;
  while (isRest && from < CONTINUATIONS_MAX && isContinuation(bytes[from])) from += 1;
  let to = bytes.length;
  while (isCut && to > from && bytes.length - to < CONTINUATIONS_MAX && isContinuation(bytes[to - 1])) to -= 1;
  const first = bytes[to - 1] ?? 0;
  const expected = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
  to = isCut && to > from && expected > bytes.length - to + 1 ? to - 1 : bytes.length;
  const half = Buffer.from('\ufffd');
  return Buffer.concat([from > 0 ? half : NOTHING, bytes.subarray(from, to), to < bytes.length ? half : NOTHING]);
}

function isContinuation(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0xc0) === 0x80;
}

function isStream(text: unknown): text is Stream {
  return text === 'stdout' || text === 'stderr';
}

/** Of the file at `path`, which lies in `folder` where a link leads there. Empty where it is called otherwise. */
export function containerNames({ path, folder }: { readonly path: string; readonly folder?: string }): ContainerNames {
  const ofLink = NAME_OF_LINK.exec(path)?.groups ?? NAME_OF_DOCKER.exec(path)?.groups;
  // A link has no uid, and what it leads to no id of the container.
  const ofPod = NAME_OF_POD.exec(folder === undefined ? path : `${folder}/0.log`)?.groups;
  const { namespace, pod, podUid, container, containerId } = { ...ofPod, ...ofLink };
  return {
    ...(namespace !== undefined && { namespace }),
    ...(pod !== undefined && { pod }),
    ...(podUid !== undefined && { podUid }),
    ...(container !== undefined && { container }),
    ...(containerId !== undefined && { containerId }),
  };
}

/** The reading of a whole message. `names` are those of its file, as JSON without its braces: printed once, as they are the same in all of its lines. */
export function containerReading(
  { bytes }: Line,
  { time, stream }: Origin,
  names: string,
  mapping: ReadingMapping,
  arrivalUs: number,
): NewReading | RejectedInput {
  if (!isUtf8(bytes)) return { reason: 'the message is not UTF-8' };
  const message = bytes.toString('utf8');
  const value = `{"ts":"${time}","stream":"${stream}",${names}${names === '' ? '' : ','}"message":${JSON.stringify(message)}}`;
  return readingOf(value, { ts: time, stream, message }, mapping, arrivalUs);
}
