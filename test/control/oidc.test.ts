/** JWTs of a provider that this test serves: its keys are real, and so is every signature. */
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, type GenerateKeyPairResult, type JWTPayload } from 'jose';
import { expect, onTestFinished, test } from 'vitest';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { startControl, type Control } from './control.ts';

const AUDIENCE = 'penstock';

interface Signing {
  readonly issuer?: string;
  readonly audience?: string;
  readonly expires?: string;
  readonly notBefore?: string;
  readonly kid?: string;
  readonly alg?: string;
}

class Provider {
  readonly server: Server;
  readonly keys = new Map<string, GenerateKeyPairResult>();
  issuer = '';
  isDown = false;
  /** What every answer waits for. */
  held: Promise<unknown> = Promise.resolve();
  keyRequests = 0;

  constructor() {
    this.server = createServer((request, response) => {
      void (async () => {
        await this.held;
        if (this.isDown) {
          response.writeHead(503).end();
        } else if (request.url === '/realm/.well-known/openid-configuration') {
          response.end(JSON.stringify({ issuer: this.issuer, jwks_uri: `${this.issuer}/keys` }));
        } else {
          this.keyRequests += 1;
          const keys = [...this.keys].map(async ([kid, { publicKey }]) => ({ ...(await exportJWK(publicKey)), kid }));
          response.end(JSON.stringify({ keys: await Promise.all(keys) }));
        }
      })();
    });
  }

  static async start(): Promise<Provider> {
    const provider = new Provider();
    await once(provider.server.listen(0, '127.0.0.1'), 'listening');
    onTestFinished(() => provider.server.close().closeAllConnections());
    // A server on TCP has such an address.
    provider.issuer = `http://127.0.0.1:${(provider.server.address() as AddressInfo).port}/realm`;
    await provider.addKey('k1', 'RS256');
    return provider;
  }

  async addKey(kid: string, alg: string): Promise<void> {
    this.keys.set(kid, await generateKeyPair(alg, { extractable: true }));
  }

  sign(claims: JWTPayload, { kid = 'k1', alg = 'RS256', ...signing }: Signing = {}): Promise<string> {
    const key = this.keys.get(kid)?.privateKey;
    if (key === undefined) throw new Error(`no key ${kid}`);
    const token = new SignJWT({ sub: 'ann', ...claims })
      .setProtectedHeader({ alg, kid })
      .setIssuer(signing.issuer ?? this.issuer)
      .setAudience(signing.audience ?? AUDIENCE)
      .setExpirationTime(signing.expires ?? '5m');
    return (signing.notBefore === undefined ? token : token.setNotBefore(signing.notBefore)).sign(key);
  }
}

async function served(
  options: {
    readonly claim?: string;
    readonly admin?: readonly string[];
    readonly tenant?: { readonly claim: string | string[]; readonly platform?: string };
    readonly tenants?: readonly string[];
  } = {},
) {
  const provider = await Provider.start();
  const { config, dir } = await openTestPipeline();
  const roles = {
    admin: [...(options.admin ?? ['penstock:admin'])],
    operator: ['penstock:operator'],
    viewer: ['penstock:viewer'],
  };
  const { claim = 'roles', tenant, tenants = [] } = options;
  const oidc = {
    issuer: provider.issuer,
    audience: AUDIENCE,
    claim,
    roles,
    ...(tenant === undefined ? {} : { tenant }),
  };
  const control = await startControl({ ...config, serve: { ...config.serve, oidc, tenants: [...tenants] } }, dir);
  return { provider, control };
}

const statusOf = async (control: Control, token: string, path = '/v1/overview'): Promise<number> =>
  (await control.request('GET', path, { token })).status;

test('a JWT of the issuer opens what its role may, and without one nothing is open', async () => {
  const { provider, control } = await served();
  expect(control.serving.loopbackOnly).toBe(false);
  expect((await control.request('GET', '/v1/overview')).status).toBe(401);
  const viewer = await provider.sign({ roles: ['something', 'penstock:viewer'] });
  const admin = await provider.sign({ roles: 'penstock:viewer penstock:admin' });
  expect([await statusOf(control, viewer), await statusOf(control, viewer, '/v1/tokens')]).toEqual([200, 403]);
  expect(await statusOf(control, admin, '/v1/tokens')).toBe(200);
  const made = await control.request('POST', '/v1/tokens', { token: admin, body: { name: 'grafana', role: 'viewer' } });
  expect(made.status, made.text).toBe(201);
  expect(await statusOf(control, String(made.json['token']))).toBe(200);
  const [record] = (await control.get('/v1/audit', admin))['items'] as readonly Readonly<Record<string, unknown>>[];
  expect(record).toMatchObject({
    who: `ann@${new URL(provider.issuer).host}`,
    role: 'admin',
    operation: 'tokens.create',
  });
  const nobody = await control.request('GET', '/v1/overview', { token: await provider.sign({ roles: ['other'] }) });
  expect([nobody.status, nobody.json['detail']]).toEqual([403, 'the role none may not do this: it needs viewer']);
});

test('claim and values are the configured ones', async () => {
  const { provider, control } = await served({ claim: 'groups', admin: ['platform', 'sre'] });
  expect(await statusOf(control, await provider.sign({ groups: ['sre'] }), '/v1/tokens')).toBe(200);
  expect(await statusOf(control, await provider.sign({ roles: ['penstock:admin'] }), '/v1/tokens')).toBe(403);
});

test('a token of another issuer, audience, time, key or algorithm is refused', async () => {
  const { provider, control } = await served();
  const claims = { roles: ['penstock:admin'] };
  const good = await provider.sign(claims);
  expect(await statusOf(control, good)).toBe(200);
  const other = await Provider.start();
  await other.addKey('es', 'ES256');
  const [header = '', payload = '', signature = ''] = good.split('.');
  const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const hmacHead = encode({ alg: 'HS256', kid: 'k1' });
  const publicKey = provider.keys.get('k1')?.publicKey;
  const secret = publicKey === undefined ? '' : await exportSPKI(publicKey);
  const hmac = createHmac('sha256', secret).update(`${hmacHead}.${payload}`).digest('base64url');
  const forged = {
    'another issuer': await provider.sign(claims, { issuer: 'https://evil.example' }),
    'another audience': await provider.sign(claims, { audience: 'grafana' }),
    expired: await provider.sign(claims, { expires: '-2m' }),
    'not valid yet': await provider.sign(claims, { notBefore: '5m' }),
    'a key of somebody else': await other.sign(claims, { issuer: provider.issuer }),
    'an unknown key': await other.sign(claims, { issuer: provider.issuer, kid: 'es', alg: 'ES256' }),
    unsigned: `${encode({ alg: 'none' })}.${payload}.`,
    'signed with the public key as a secret': `${hmacHead}.${payload}.${hmac}`,
    'another payload': `${header}.${encode({ ...claims, sub: 'eve' })}.${signature}`,
    'no JSON': `${header}.${payload.slice(3)}.${signature}`,
    'no expiry': await new SignJWT({ ...claims, sub: 'ann', iss: provider.issuer, aud: AUDIENCE })
      .setProtectedHeader({ alg: 'RS256', kid: 'k1' })
      .sign(provider.keys.get('k1')?.privateKey ?? new Uint8Array()),
  };
  for (const [what, token] of Object.entries(forged))
    expect([what, await statusOf(control, token)]).toEqual([what, 401]);
});

test('forged key ids do not become requests to the issuer, and its keys serve on while it is away', async () => {
  const { provider, control } = await served();
  const token = await provider.sign({ roles: ['penstock:viewer'] });
  provider.isDown = true;
  const early = await control.request('GET', '/v1/overview', { token });
  expect([early.status, early.headers.get('retry-after')]).toEqual([503, '3']);
  expect(early.json['detail']).toContain(`the keys of the issuer ${provider.issuer} cannot be had`);
  provider.isDown = false;
  expect(await statusOf(control, token)).toBe(200);
  const other = await Provider.start();
  for (let at = 0; at < 5; at++) {
    await other.addKey(`x${at}`, 'ES256');
    const forged = await other.sign({}, { issuer: provider.issuer, kid: `x${at}`, alg: 'ES256' });
    expect(await statusOf(control, forged)).toBe(401);
  }
  expect(provider.keyRequests).toBe(1);
  provider.isDown = true;
  expect(await statusOf(control, token)).toBe(200);
});

test('a claim says of which tenant somebody is; who has none, several or an unknown one may do nothing', async () => {
  const tenants = ['team-a', 'team-b'];
  const tenant = { claim: ['kubernetes.io', 'namespace'], platform: 'penstock' };
  const { provider, control } = await served({ tenant, tenants });
  const seen = async (namespace: unknown): Promise<unknown> => {
    const claims = namespace === undefined ? {} : { 'kubernetes.io': { namespace } };
    const token = await provider.sign({ roles: ['penstock:viewer'], ...claims });
    const answer = await control.request('GET', '/v1/tenants', { token });
    return answer.status === 200
      ? (answer.json['items'] as readonly { readonly name: string }[]).map(({ name }) => name)
      : answer.status;
  };
  expect(await seen('team-a')).toEqual(['team-a']);
  expect(await seen(['team-b'])).toEqual(['team-b']);
  expect(await seen('penstock')).toEqual(tenants);
  for (const namespace of [undefined, null, '', 'team-c', ['team-a', 'team-b'], { name: 'team-a' }, 7]) {
    expect([namespace, await seen(namespace)]).toEqual([namespace, 403]);
  }
  await expect(served({ tenants })).rejects.toThrow('serve.oidc.tenant: missing');
});

test('whoever goes away while the issuer is asked who it is leaves room for the bodies of others', async () => {
  const { provider, control } = await served({ claim: 'roles', admin: ['admins'] });
  const answering = Promise.withResolvers<unknown>();
  provider.held = answering.promise;
  const token = await provider.sign({ roles: ['admins'] });
  const { hostname, port } = new URL(control.url);
  const head = `POST /v1/sql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\ncontent-length: 262144\r\n\r\n`;
  await Promise.all(
    Array.from({ length: 200 }, async () => {
      const socket = connect(Number(port), hostname);
      await once(socket, 'connect');
      await new Promise((written) => socket.write(head, written));
      socket.destroy();
    }),
  );
  // Once this one is answered, the server has seen the others come and go.
  expect((await control.request('GET', '/healthz')).status).toBe(200);
  answering.resolve(null);
  const made = await control.request('POST', '/v1/tokens', { token, body: { name: 'v', role: 'viewer' } });
  expect(made.status, made.text).toBe(201);
});
