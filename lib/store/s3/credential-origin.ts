/**
 * From whom the AWS chain has its credentials when the environment holds none. The SDK has one error for a source that does not answer and for one that was never configured, and they
 * are not the same to a caller: the first ends by itself, the second only by somebody who configures one.
 */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

type Environment = Readonly<Record<string, string | undefined>>;

/** Nitro machines name EC2 as their vendor, older ones in the version of their BIOS. Everybody may read both. */
const MACHINE_FILES = ['/sys/class/dmi/id/sys_vendor', '/sys/class/dmi/id/bios_version'];
/** Keys of a profile that let somebody else make the credentials. */
const REMOTE_KEYS = /^\s*(credential_process|credential_source|web_identity_token_file)\s*=/m;

/** In words, or null where no source but the environment and static profiles is configured. */
export function remoteCredentialSource(
  env: Environment = process.env,
  machineFiles: readonly string[] = MACHINE_FILES,
): string | null {
  for (const name of ['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI', 'AWS_CONTAINER_CREDENTIALS_FULL_URI']) {
    if (isSet(env[name])) return `the agent of ${name}`;
  }
  if (isSet(env['AWS_WEB_IDENTITY_TOKEN_FILE'])) return 'the web identity of AWS_WEB_IDENTITY_TOKEN_FILE';
  const profile = isSet(env['AWS_PROFILE']) ? env['AWS_PROFILE'] : 'default';
  const key = REMOTE_KEYS.exec(profileText(env, profile))?.[1];
  if (key !== undefined) return `${key} of profile '${profile}'`;
  return hasMetadataService(env, machineFiles) ? "the machine's metadata service" : null;
}

/**
 * The chain asks 169.254.169.254 on every machine unless it is told not to. Only one of EC2 has somebody there: elsewhere its silence says that no credentials are configured.
 */
function hasMetadataService(env: Environment, machineFiles: readonly string[]): boolean {
  const disabled = env['AWS_EC2_METADATA_DISABLED'];
  if (isSet(disabled) && disabled !== 'false') return false;
  return isSet(env['AWS_EC2_METADATA_SERVICE_ENDPOINT']) || machineFiles.some((path) => /amazon/i.test(textOf(path)));
}

/** What the two files of the chain have under `[NAME]` or `[profile NAME]`. */
function profileText(env: Environment, profile: string): string {
  const home = env['HOME'] ?? homedir();
  const paths = [
    env['AWS_CONFIG_FILE'] ?? join(home, '.aws', 'config'),
    env['AWS_SHARED_CREDENTIALS_FILE'] ?? join(home, '.aws', 'credentials'),
  ];
  const sections = paths.flatMap((path) => `\n${textOf(path)}`.split(/\n\s*(?=\[)/));
  const own = sections.filter((section) => /^\[\s*(?:profile\s+)?["']?(.*?)["']?\s*\]/.exec(section)?.[1] === profile);
  return own.join('\n');
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // A source whose file cannot be read is not configured.
    return '';
  }
}

function isSet(value: string | undefined): value is string {
  return value !== undefined && value !== '';
}
