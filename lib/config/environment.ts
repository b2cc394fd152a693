/**
 * `${NAME}` in a string of a configuration, or in a URL given to a command, is the environment variable NAME: so a URL with a password stands
 * in no file that everybody may read and on no command line. `$${` is a plain `${`.
 */
import { PenstockError } from '../errors.ts';

/** Upper-case names only: other braces with a dollar are left as they are. */
const REFERENCE = /\$(\$\{)|\$\{([A-Z_][A-Z0-9_]*)\}/g;

/** Throws `config` naming the variable that is not set, or empty. */
export function expandEnvironment(text: string, environment: NodeJS.ProcessEnv = process.env): string {
  return text.replace(REFERENCE, (_, escaped: string | undefined, name: string) => {
    if (escaped !== undefined) return escaped;
    const value = environment[name];
    if (value === undefined || value === '') {
      throw new PenstockError('config', `the environment variable ${name} is not set`);
    }
    return value;
  });
}
