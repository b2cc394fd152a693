/** The server as the page sees it. The shapes are those of /openapi.json. */
import type { VolumeOperation } from '../control/volume-schemas.ts';

export class ApiError extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const TOKEN_KEY = 'penstock-token';
const TENANT_KEY = 'penstock-tenant';
const LOOK_MS = 1000;

/** Kept for this tab only. */
export function setToken(token: string): void {
  sessionStorage.setItem(TOKEN_KEY, token);
}

/** Whose things are shown; '': all that the token may see. Kept for this tab only. */
export const shownTenant = (): string => sessionStorage.getItem(TENANT_KEY) ?? '';

export function showTenant(tenant: string): void {
  sessionStorage.setItem(TENANT_KEY, tenant);
}

/** What everybody sees who may see several tenants. */
export const TENANTS_PATH = '/v1/tenants?limit=1000';

function withTenant(path: string): string {
  const tenant = shownTenant();
  if (tenant === '' || path === TENANTS_PATH) return path;
  return `${path}${path.includes('?') ? '&' : '?'}tenant=${encodeURIComponent(tenant)}`;
}

interface ApiOptions {
  readonly method?: 'POST' | 'PUT' | 'DELETE';
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  /** How far it is, of what takes long. */
  readonly onProgress?: (text: string) => void;
}

/**
 * GET, or with a body POST, if nothing else is said; what takes long is followed to its end. Throws ApiError with the problem's detail; status 0: no answer at all.
 */
export async function api<T>(path: string, options: ApiOptions = {}): Promise<T> {
  const token = sessionStorage.getItem(TOKEN_KEY);
  let response: Response;
  try {
    response = await fetch(withTenant(path), {
      headers: {
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      method: options.method ?? (options.body === undefined ? 'GET' : 'POST'),
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
  } catch (error) {
    if (options.signal?.aborted === true) throw error;
    throw new ApiError(0, 'The server does not answer.');
  }
  if (response.status === 204) return undefined as T; // there is nothing in it
  const location = response.status === 202 ? response.headers.get('location') : null;
  if (location !== null) return (await toItsEnd(location, options)) as T; // what the request is answered with where it does not take long
  if (response.ok) return (await response.json()) as T; // the server validates its answers by the same schemas
  const problem = (await response.json().catch(() => ({}))) as { detail?: string; title?: string };
  throw new ApiError(response.status, problem.detail ?? problem.title ?? `HTTP status ${response.status}`);
}

async function toItsEnd(location: string, { signal, onProgress }: ApiOptions): Promise<unknown> {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    const { state, progress, result, error } = await api<VolumeOperation>(
      location,
      signal === undefined ? {} : { signal },
    );
    if (state === 'done') return result;
    if (error !== null) throw new ApiError(error.status, error.detail);
    onProgress?.(progress === null ? state : `${progress.phase}: ${progress.done.toLocaleString('en')}`);
  }
}

export interface PagedList<T> {
  readonly items: readonly T[];
  readonly nextCursor: string | null;
}

export interface Tenants extends PagedList<{ readonly name: string }> {
  readonly all: boolean;
}

export interface Port {
  readonly name: string;
  readonly url: string;
  readonly ok: boolean;
  readonly sinceMs: number;
  readonly problem: string | null;
}

export interface Dataset {
  readonly name: string;
  readonly topic: string;
  readonly appended: number;
  readonly landed: number;
  readonly quarantined: number;
  readonly lost: number;
  readonly duplicates: number;
  readonly landedFiles: number;
  readonly landedBytes: number;
  readonly liveRows: number;
  readonly liveFiles: number;
  readonly liveBytes: number | null;
  readonly unlanded: number;
  readonly oldestUnlandedMs: number | null;
}

export interface Partition {
  readonly partition: number;
  readonly end: number;
  readonly landed: number;
  readonly unlanded: number;
  readonly lander: { readonly id: string; readonly host: string; readonly pid: number } | null;
}

export interface Overview {
  readonly nowMs: number;
  readonly volume: string;
  readonly ports: readonly Port[];
  readonly atMs: number | null;
  readonly appendedPerSecond: number;
  readonly landedPerSecond: number;
  readonly datasets: readonly Dataset[];
  readonly sessions: Readonly<Record<string, number>> | null;
  readonly agents: { readonly total: number; readonly late: number } | null;
}

export interface History {
  readonly atMs: readonly number[];
  readonly appendedPerSecond: readonly number[];
  readonly landedPerSecond: readonly number[];
  readonly unlanded: readonly number[];
  readonly oldestUnlandedSeconds: readonly number[];
  readonly liveFiles: readonly number[];
}

export interface FileSizes {
  readonly boundsBytes: readonly number[];
  readonly landed: readonly number[];
  readonly small: readonly number[];
  readonly compacted: readonly number[];
  readonly smallFiles: number;
  readonly compactedFiles: number;
}

export interface Table {
  readonly name: string;
  readonly uuid: string;
  readonly location: string;
  readonly updatedMs: number;
  readonly snapshotId: string | null;
  readonly fields: readonly {
    readonly id: number;
    readonly name: string;
    readonly type: string;
    readonly required: boolean;
  }[];
  readonly sort: readonly { readonly field: string; readonly direction: string }[];
  readonly snapshots: number;
}

export interface TableSnapshot {
  readonly id: string;
  readonly sequence: number;
  readonly atMs: number;
  readonly operation: string;
  readonly summary: Readonly<Record<string, string>>;
}

export interface CostSums {
  readonly runs: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly rows: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly gets: number;
  readonly puts: number;
}

export interface Run extends Omit<CostSums, 'runs'> {
  readonly id: string;
  readonly dataset: string;
  readonly kind: string;
  readonly startedMs: number;
}

export interface LandedFiles {
  readonly dataset: string;
  readonly filesPerHour: number;
  readonly meanBytes: number;
  readonly targetBytes: number;
  readonly compaction: { readonly gets: number; readonly cpuSeconds: number; readonly price: number | null };
  readonly estimate: {
    readonly commitEveryMs: number;
    readonly filesPerHour: number;
    readonly savedRequests: number;
    readonly savedCpuSeconds: number;
    readonly savedPrice: number | null;
  } | null;
}

export interface Costs {
  readonly currency: string | null;
  readonly landing: readonly LandedFiles[];
  readonly periods: readonly (CostSums & {
    readonly dataset: string;
    readonly kind: string;
    readonly startMs: number;
  })[];
  readonly trends: readonly {
    readonly dataset: string;
    readonly last7Days: CostSums;
    readonly previous7Days: CostSums;
    readonly cpuChange: number | null;
  }[];
}

export interface Forecasts {
  readonly items: readonly {
    readonly dataset: string;
    readonly historyStartMs: number;
    readonly history: readonly number[];
    readonly forecast: {
      readonly startMs: number;
      readonly point: readonly number[];
      readonly lower: readonly number[];
      readonly upper: readonly number[];
    } | null;
    readonly heldOut: {
      readonly days: number;
      readonly errorPercent: number | null;
      readonly naiveErrorPercent: number | null;
      readonly insideBand: number;
    } | null;
    readonly reason: string | null;
  }[];
  readonly advice: readonly { readonly kind: 'switch-off' | 'buy'; readonly text: string }[] | null;
}

export interface QuarantineObject {
  readonly dataset: string;
  readonly object: string;
  readonly records: number;
  readonly bytes: number;
  readonly reasons: Readonly<Record<string, number>>;
  readonly committedMs: number;
}

export interface QuarantineRecord {
  readonly reason: string;
  readonly topic: string;
  readonly partition: number;
  readonly offset: string;
  readonly timestamp: string;
  readonly key: string | null;
  readonly value: string | null;
  readonly valueBytes: number | null;
}

export interface Session {
  readonly id: number;
  readonly kind: string;
  readonly host: string;
  readonly pid: number;
  readonly detail: Readonly<Record<string, string | number | boolean>>;
  readonly startedMs: number;
  readonly renewedMs: number;
  readonly live: boolean;
}

export interface Volume {
  readonly name: string;
  readonly formatted: boolean;
  readonly store: string | null;
  readonly blockSize: number | null;
  readonly inlineBytes: number | null;
  readonly graceMs: number | null;
  readonly durability: string | null;
  readonly createdMs: number | null;
  readonly bytesUsed: number;
  readonly inodesUsed: number;
  readonly mounts: readonly Session[];
}

export interface Mount {
  readonly id: string;
  readonly host: string;
  readonly pid: number;
  readonly mountpoint: string;
  readonly startedMs: number;
  /** null: it was not used yet. */
  readonly use: {
    readonly atMs: number;
    readonly fetchedBytes: number;
    readonly peerFetchedBytes: number;
    readonly cachedBytes: number;
    readonly stagedBytes: number;
    readonly files: readonly {
      readonly ino: number;
      readonly path: string | null;
      readonly readBytes: number;
      readonly writtenBytes: number;
    }[];
  } | null;
}

/** Who uses a mount; outside of Kubernetes a unit or command. */
export interface Pod {
  readonly kind: string;
  readonly id: string;
  readonly name: string | null;
  readonly mount: string;
  readonly host: string;
  readonly atMs: number;
  readonly requests: number;
  readonly reads: number;
  readonly readsWaited: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly waitSeconds: number;
  readonly kernelReadBytes: number;
  readonly kernelWrittenBytes: number;
  readonly perSecond: {
    readonly requests: number;
    readonly readBytes: number;
    readonly writtenBytes: number;
    readonly waitSeconds: number;
  };
}

export interface LineageUse {
  readonly dataset: string;
  readonly snapshotId: string;
  readonly job: string;
  readonly model: string | null;
  readonly recordedMs: number;
  readonly recordedBy: string;
}

export interface Agent {
  readonly id: string;
  readonly seenMs: number;
  readonly address: string;
  readonly late: boolean;
  readonly group: string | null;
  /** `none`: its own agent.yaml. */
  readonly wanted: string;
  /** What it says; older agents say less. */
  readonly status: {
    readonly readings?: number;
    readonly uplinkProblem?: string | null;
    readonly uplink?: { readonly heldUp?: readonly { readonly topic: string; readonly problem: string }[] };
    readonly sources?: readonly { readonly name: string; readonly problem: string | null }[];
    readonly rules?: readonly { readonly when: string; readonly active: boolean; readonly times: number }[];
    readonly config?: {
      readonly version: string | null;
      readonly refused: { readonly version: string; readonly reason: string } | null;
    } | null;
  };
}

export interface AgentGroup {
  readonly name: string;
  readonly agents: number;
  readonly current: { readonly version: string; readonly changedMs: number; readonly changedBy: string } | null;
  readonly rollout: RolloutState | null;
}

type RolloutState = 'running' | 'stopped' | 'done' | 'aborted' | 'rolled-back';
type MemberState = 'waiting' | 'settling' | 'well' | 'refused' | 'gone' | 'troubled' | 'away';

export interface Rollout {
  readonly state: RolloutState;
  readonly to: { readonly version: string };
  readonly steps: readonly unknown[];
  readonly step: number;
  readonly reason: string | null;
  readonly events: readonly { readonly atMs: number; readonly text: string }[];
  readonly health:
    (Readonly<Record<MemberState, number>> & { readonly updated: number; readonly errorRate: number }) | null;
}

export interface Connection {
  readonly name: string;
  readonly address: string;
  readonly region: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly price:
    | (Readonly<Partial<Record<'storageGBMonth' | 'gets' | 'puts' | 'egressGB', number>>> & {
        readonly currency: string;
      })
    | null;
  readonly credentials: readonly string[];
  readonly keyId: string | null;
  readonly changedMs: number;
  readonly changedBy: string;
}

export interface TestResult {
  readonly ok: boolean;
  readonly seconds: number;
  readonly problem: string | null;
  readonly remedy: string | null;
}

export interface Driver {
  readonly port: string;
  readonly form: string;
  readonly options: Readonly<Record<string, string>>;
  readonly credentials: readonly string[] | null;
  readonly calls: readonly { readonly name: string }[];
}

export interface SqlAnswer {
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly (readonly unknown[])[];
  readonly truncated: boolean;
  readonly seconds: number;
}
