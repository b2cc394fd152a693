/** The options of a mount as people write them: `-o a,b=c` of the command line, `mountOptions` of a storage class. */
import { PenstockError } from '../lib/errors.ts';
import { parseListen } from './peers/address.ts';
import type { PassthroughMode } from './vfs/passthrough.ts';

export interface MountOptions {
  accessLogPath?: string;
  readOnly?: true;
  passthrough?: PassthroughMode;
  writeback?: true;
  openCache?: true;
  cacheGroup?: string;
  peerListen?: string;
}

const EXPECTED =
  'accesslog=FILE, ro, writeback, openCache, passthrough=full, passthrough=read, passthrough=off, cacheGroup=NAME or peerListen=HOST:PORT';
/** It is part of a session's record and of the labels of metrics. */
const GROUP_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** What is not known is refused by name. Throws `usage`. */
export function parseMountOptions(options: readonly string[]): MountOptions {
  const parsed: MountOptions = {};
  for (const option of options.flatMap((text) => text.split(','))) {
    const [key, ...rest] = option.split('=');
    const value = rest.join('=');
    if (key === 'accesslog' && value !== '') parsed.accessLogPath = value;
    else if (option === 'ro') parsed.readOnly = true;
    else if (key === 'passthrough' && (value === 'off' || value === 'read' || value === 'full'))
      parsed.passthrough = value;
    else if (option === 'writeback') parsed.writeback = true;
    else if (option === 'openCache') parsed.openCache = true;
    else if (key === 'cacheGroup') parsed.cacheGroup = groupName(value);
    else if (key === 'peerListen') {
      parseListen(value);
      parsed.peerListen = value;
    } else throw new PenstockError('usage', `-o ${option}: expected ${EXPECTED}`);
  }
  if (parsed.peerListen !== undefined && parsed.cacheGroup === undefined) {
    throw new PenstockError('usage', `-o peerListen=${parsed.peerListen}: it needs cacheGroup=NAME`);
  }
  return parsed;
}

function groupName(text: string): string {
  if (GROUP_NAME.test(text)) return text;
  const expected = 'up to 64 letters, digits, dots, dashes and underscores, the first a letter or digit';
  throw new PenstockError('usage', `-o cacheGroup=${text}: expected ${expected}`);
}
