/** S3 over TLS: bulk reads come straight into the caller's memory there too, and a certificate that nobody trusts is refused. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createServer } from 'node:tls';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeCertificates } from '../support/certificates.ts';
import type { Certificates } from '../support/certificates.ts';
import { missing } from '../support/services.ts';
import { makeTempDir } from '../support/temp.ts';
import { startVersitygw } from '../support/versitygw.ts';
import type { S3Server } from '../support/versitygw.ts';
import { HANG_MS } from '../support/hang.ts';

const REGISTRY = join(import.meta.dirname, '../../lib/registry.ts');
const run = promisify(execFile);

/** Reads a part of an object twice into its own memory, then an object that is not there. Prints what it saw. */
const SCRIPT = `
  import { openStore } from '${REGISTRY}';
  const store = await openStore(process.env.STORE_URL);
  const body = Buffer.alloc(3_000_000, 'tls ');
  await store.put('large', body);
  const same = [];
  for (let n = 0; n < 2; n++) {
    const into = Buffer.alloc(2_000_000);
    const got = await store.get('large', { offset: 500_000, length: into.length, into });
    same.push(got === into && got.equals(body.subarray(500_000, 2_500_000)));
  }
  const code = await store.get('missing', { offset: 0, length: 4, into: Buffer.alloc(4) }).catch((error) => error.code);
  await store.close();
  console.log(JSON.stringify({ same, code }));
`;

let s3: S3Server;
let certificates: Certificates;
let port = 0;
let accepted = 0;
/** Of all requests, as the server has them. */
let heads = '';
let close: () => void;

beforeAll(async () => {
  if (missing('versitygw')) return;
  s3 = await startVersitygw();
  s3.createBucket('tls');
  certificates = makeCertificates(makeTempDir('certificates'));
  const { cert, key } = certificates.server;
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (socket) => {
    accepted++;
    const behind = connect(Number(new URL(s3.endpoint).port), '127.0.0.1');
    socket.on('data', (sent: Buffer) => {
      const head = sent.toString('latin1', 0, 4096);
      if (/^(PUT|GET) /.test(head)) heads += head.slice(0, head.indexOf('\r\n\r\n'));
    });
    socket.on('error', () => behind.destroy()).pipe(behind);
    behind.on('error', () => socket.destroy()).pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ({ port } = server.address() as AddressInfo);
  close = () => server.close();
});
afterAll(async () => {
  if (missing('versitygw')) return;
  close();
  await s3.stop();
});

function read(environment: Readonly<Record<string, string>>): Promise<{ readonly stdout: string }> {
  const { accessKeyId, secretAccessKey } = s3;
  const env = {
    ...process.env,
    AWS_ACCESS_KEY_ID: accessKeyId,
    AWS_SECRET_ACCESS_KEY: secretAccessKey,
    STORE_URL: `s3://tls/x?endpoint=https://127.0.0.1:${port}&region=us-east-1&deadline=5s`,
    ...environment,
  };
  return run(process.execPath, ['--input-type=module-typescript', '--eval', SCRIPT], { env, timeout: HANG_MS });
}

test.skipIf(missing('versitygw'))('parts of objects are read into the memory that is given', async () => {
  const { stdout } = await read({ NODE_EXTRA_CA_CERTS: certificates.ca });
  expect(JSON.parse(stdout)).toEqual({ same: [true, true], code: 'not-found' });
  expect(accepted).toBeGreaterThan(0);
  // A large body is not hashed for the signature, as TLS proves it, and is sent without asking first.
  expect(heads).toMatch(/^PUT .*large/);
  expect(heads).toMatch(/x-amz-content-sha256: UNSIGNED-PAYLOAD/i);
  expect(heads).not.toMatch(/expect:/i);
});

test.skipIf(missing('versitygw'))('a certificate that nobody trusts is refused', async () => {
  await expect(read({})).rejects.toThrow(/certificate/);
});
