import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { remoteCredentialSource } from '../../lib/store/s3/credential-origin.ts';
import { tempDir } from '../support/temp.ts';

describe('the remote source of credentials', () => {
  const nowhere = { AWS_CONFIG_FILE: '/nonexistent', AWS_SHARED_CREDENTIALS_FILE: '/nonexistent' };

  it.each([
    [{ AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: '/v2/x' }, 'the agent of AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'],
    [{ AWS_CONTAINER_CREDENTIALS_FULL_URI: 'http://x' }, 'the agent of AWS_CONTAINER_CREDENTIALS_FULL_URI'],
    [{ AWS_WEB_IDENTITY_TOKEN_FILE: '/token' }, 'the web identity of AWS_WEB_IDENTITY_TOKEN_FILE'],
    [{ AWS_EC2_METADATA_SERVICE_ENDPOINT: 'http://x' }, "the machine's metadata service"],
    [{ AWS_CONTAINER_CREDENTIALS_FULL_URI: '' }, null],
    [{}, null],
  ])('of %j is %s', (env, source) => {
    expect(remoteCredentialSource({ ...nowhere, ...env }, [])).toBe(source);
  });

  it('is what the profile in use names, not what another does', () => {
    const file = join(tempDir('aws'), 'config');
    writeFileSync(
      file,
      '# accounts\n[default]\nregion = eu-west-1\n[profile  vault]\nregion=eu-west-1\ncredential_process = get\n[node]\ncredential_source=Ec2InstanceMetadata\n',
    );
    const of = (env: object): string | null =>
      remoteCredentialSource({ ...nowhere, AWS_CONFIG_FILE: file, ...env }, []);
    expect(of({})).toBeNull();
    expect(of({ AWS_PROFILE: 'vault' })).toBe("credential_process of profile 'vault'");
    expect(of({ AWS_PROFILE: 'node' })).toBe("credential_source of profile 'node'");
    expect(of({ AWS_PROFILE: 'other' })).toBeNull();
  });

  it('is the metadata service on a machine of EC2 only, and not where that is disabled', () => {
    const [nitro, other] = ['Amazon EC2', 'QEMU'].map((vendor) => {
      const path = join(tempDir('dmi'), 'sys_vendor');
      writeFileSync(path, `${vendor}\n`);
      return [path];
    });
    expect(remoteCredentialSource(nowhere, nitro)).toBe("the machine's metadata service");
    expect(remoteCredentialSource(nowhere, other)).toBeNull();
    expect(remoteCredentialSource({ ...nowhere, AWS_EC2_METADATA_DISABLED: 'true' }, nitro)).toBeNull();
  });
});
