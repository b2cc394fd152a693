/** Pages of a listing, in order of the records' names. A token names the last one that was given, which may be gone by the next call. */
import { CsiError, invalid, Status } from './status.ts';

const TOKEN = 'after:';

interface PageRequest {
  /** 0: all. */
  readonly maxEntries: number;
  readonly startingToken: string;
}

interface Page<T> {
  readonly page: readonly T[];
  readonly nextToken: string;
}

/** Throws INVALID_ARGUMENT, and ABORTED for a token that is none. */
export function pageOf<T>(
  records: ReadonlyMap<string, T>,
  { maxEntries, startingToken }: PageRequest,
  shown: (record: T) => boolean,
): Page<T> {
  if (maxEntries < 0) throw invalid('max_entries is not negative');
  if (startingToken !== '' && !startingToken.startsWith(TOKEN)) {
    throw new CsiError(Status.ABORTED, 'the starting token is not one that this driver gave');
  }
  const after = startingToken.slice(TOKEN.length);
  const rest = [...records].filter(([name, record]) => name > after && shown(record));
  const page = maxEntries === 0 ? rest : rest.slice(0, maxEntries);
  const last = page.at(-1);
  return {
    page: page.map(([, record]) => record),
    nextToken: last !== undefined && page.length < rest.length ? TOKEN + last[0] : '',
  };
}
