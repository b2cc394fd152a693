/** What a shell offers behind `penstock ctl`, from the document of the server that it talks to (PENSTOCK_URL). */

/** For bash, and for zsh with bashcompinit, which the script loads itself. */
export const COMPLETION_SCRIPT = `# penstock ctl completion >> ~/.bashrc (or ~/.zshrc)
[ -n "$ZSH_VERSION" ] && autoload -U +X compinit bashcompinit && compinit && bashcompinit
_penstock() {
  [ "\${COMP_WORDS[1]}" = ctl ] && [ "$COMP_CWORD" -gt 1 ] || return
  local words
  words=$(penstock ctl completion "\${COMP_WORDS[@]:2:$((COMP_CWORD - 2))}" . 2> /dev/null)
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _penstock penstock
`;

export interface Completable {
  /** `resource.verb` */
  readonly operationId: string;
  /** Without the dashes. */
  readonly options: readonly string[];
}

/** What `compgen -W` would expand, as `$(...)`, is no word of ours: a server must not run commands in the shell of who asks it. */
const WORD = /^[\w.-]+$/;

/** The words that may follow `before`: a resource, its verb, then options that are not there yet. */
export function completionsOf(operations: readonly Completable[], before: readonly string[]): string[] {
  return wordsAfter(operations, before).filter((word) => WORD.test(word));
}

function wordsAfter(operations: readonly Completable[], before: readonly string[]): string[] {
  const [resource, verb] = before;
  const parts = operations.map(({ operationId }) => operationId.split('.'));
  if (resource === undefined) return [...new Set(parts.map(([first = '']) => first))].sort();
  if (verb === undefined) return parts.filter(([first]) => first === resource).map(([, second = '']) => second);
  const operation = operations.find(({ operationId }) => operationId === `${resource}.${verb}`);
  // A value follows the name of an option.
  if (operation === undefined || /^--[^=]+$/.test(before.at(-1) ?? '')) return [];
  return ['json', ...operation.options].map((name) => `--${name}`).filter((option) => !before.includes(option));
}
