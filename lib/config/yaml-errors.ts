/** What is wrong with a text that is no YAML, as the person who wrote it can mend it: the library's own words are about its grammar. */
import type { LineCounter, YAMLParseError } from 'yaml';

type YamlFault = Pick<YAMLParseError, 'code' | 'message' | 'pos'>;

interface YamlProblem {
  readonly line: number;
  readonly key: string;
  readonly message: string;
}

/** Repeated keys are each a fault; of the others all but the first follow from it. */
export function yamlProblems(text: string, errors: readonly YamlFault[], lines: LineCounter): readonly YamlProblem[] {
  const repeated = errors.filter(({ code }) => code === 'DUPLICATE_KEY');
  const first = errors.find(({ code }) => code !== 'DUPLICATE_KEY');
  return [...(first === undefined ? [] : [first]), ...repeated].map((error) => {
    const { line } = lines.linePos(error.pos[0]);
    return { line, key: '', message: messageOf(error, text, text.split('\n')[line - 1] ?? '') };
  });
}

function messageOf({ code, message, pos }: YamlFault, text: string, line: string): string {
  // `{ id: ${NAME} }`: the brace of the variable begins a map in a map.
  if (/[{[,].*:\s*\$\{/.test(line)) return "not YAML: within { } and [ ], ${NAME} needs quotes, as '${NAME}'";
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'a tab in the indentation: YAML takes spaces only';
    case 'DUPLICATE_KEY':
      return `the key '${/^[^\s:,}]*/.exec(text.slice(pos[0]))?.[0] ?? ''}' is there already: keys of one map differ`;
    case 'BLOCK_AS_IMPLICIT_KEY':
    case 'MULTILINE_IMPLICIT_KEY':
    case 'BAD_INDENT':
      return `not YAML: this line and the next, are they indented as their neighbours? A text with ': ' in it needs quotes (${message})`;
    default:
      return `not YAML: ${message}`;
  }
}
