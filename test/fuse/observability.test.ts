import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { AccessLog } from '../../fs-gateway/fuse/access-log.ts';
import { Metrics, formatPrometheus } from '../../fs-gateway/fuse/metrics.ts';
import { mountability, parseMountInfo } from '../../fs-gateway/fuse/mount.ts';
import { tempDir } from '../support/temp.ts';

describe('metrics', () => {
  it('counts requests, errors and times by operation', () => {
    const metrics = new Metrics();
    metrics.record(1, 0, 5);
    metrics.record(1, 2, 30);
    metrics.record(16, 0, 20_000_000);
    const snapshot = metrics.snapshot();
    expect(Object.keys(snapshot)).toEqual(['lookup', 'write']);
    expect(snapshot['lookup']).toMatchObject({ count: 2, errors: 1, totalUs: 35 });
    expect(snapshot['lookup']?.buckets.slice(0, 3)).toEqual([1, 0, 1]);
    expect(snapshot['write']?.buckets.at(-1)).toBe(1);
  });

  it('is Prometheus text: cumulative buckets that end at the count, labels escaped', () => {
    const metrics = new Metrics();
    metrics.record(15, 0, 5);
    metrics.record(15, 0, 70);
    const text = formatPrometheus(metrics.snapshot(), '/mnt/a"b');
    expect(text).toContain('# TYPE penstock_fuse_request_seconds histogram\n');
    expect(text).toContain('penstock_fuse_errors_total{mountpoint="/mnt/a\\"b",operation="read"} 0\n');
    const buckets = [...text.matchAll(/_bucket\{.*le="([^"]+)"\} (\d+)/g)].map(([, le, count]) => [le, Number(count)]);
    expect(buckets[0]).toEqual(['0.00001', 1]);
    expect(buckets.at(-1)).toEqual(['+Inf', 2]);
    expect(text).toContain('_count{mountpoint="/mnt/a\\"b",operation="read"} 2\n');
  });
});

describe('the access log', () => {
  it('keeps at most its bound and one predecessor', () => {
    const path = join(tempDir('access'), 'log');
    const log = new AccessLog(path, () => undefined, 4_096);
    for (let i = 0; i < 200; i++) {
      log.record('lookup', BigInt(i), 2, 12.4);
      log.flush();
    }
    log.close();
    expect(statSync(path).size).toBeLessThan(4_096);
    expect(statSync(`${path}.1`).size).toBeLessThan(4_096 + 100);
    expect(readFileSync(path, 'utf8').trimEnd().split('\n').at(-1)).toMatch(/ lookup 199 -2 12$/);
  });

  it('goes on in a new file after it was moved away', () => {
    const path = join(tempDir('access'), 'log');
    const log = new AccessLog(path, () => undefined);
    log.record('open', 1n, 0, 1);
    log.flush();
    renameSync(path, `${path}.old`);
    log.reopen();
    log.record('read', 1n, 0, 1);
    log.close();
    expect(readFileSync(`${path}.old`, 'utf8')).toMatch(/ open 1 0 1\n$/);
    expect(readFileSync(path, 'utf8')).toMatch(/ read 1 0 1\n$/);
  });
});

describe('the access log whose folder is removed', () => {
  it('stops when it is reopened, which is told, closes nobody else’s file, and goes on when it can be opened again', () => {
    const folder = join(tempDir('access'), 'logs');
    mkdirSync(folder);
    const path = join(folder, 'log');
    const told: string[] = [];
    const log = new AccessLog(path, (message) => told.push(message));
    rmSync(folder, { recursive: true });
    log.reopen();
    expect(told).toEqual([expect.stringContaining(`${path} stopped: ENOENT`)]);
    // By the number that the log had.
    const other = openSync(tempDir('access'), 'r');
    onTestFinished(() => closeSync(other));
    log.record('open', 1n, 0, 1);
    log.flush();
    mkdirSync(folder);
    log.reopen();
    log.record('read', 1n, 0, 1);
    log.close();
    expect(readFileSync(path, 'utf8')).toMatch(/^[^\n]* read 1 0 1\n$/);
    expect(fstatSync(other).isDirectory()).toBe(true);
  });
});

describe('the mount table', () => {
  it('reads mount points with spaces and letters beyond ASCII', () => {
    const text =
      '29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n' +
      '88 29 0:44 / /tmp/a\\040b\\303\\244 rw,nosuid - fuse.penstock redis://h/1 rw,user_id=0\n' +
      'not a mount\n';
    const root = { root: '/', readOnly: false };
    expect(parseMountInfo(text)).toEqual([
      { ...root, mountpoint: '/', type: 'ext4', source: '/dev/vda', device: '254:0' },
      { ...root, mountpoint: '/tmp/a b\u00e4', type: 'fuse.penstock', source: 'redis://h/1', device: '0:44' },
    ]);
  });

  it('says in one line why this machine cannot mount, or how it does', () => {
    const answer = mountability();
    if (answer.ok) {
      expect(['mount', 'fusermount3']).toContain(answer.how);
      expect(existsSync('/dev/fuse')).toBe(true);
    } else {
      expect(answer.reason).toMatch(/^cannot mount: [^\n]+$/);
    }
  });
});
