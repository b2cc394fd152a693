/** What makes readings of the lines of a source's files: nothing, `multiline`, or what puts the messages of containers together. */
import type { FileSourceConfig } from '../../config.ts';
import type { Assembler } from './line-joiner.ts';
import type { FilePosition } from './tailed-file.ts';

/** As `multiline` joins by default: a record has room for it, and for what its text is escaped with. */
const MESSAGE_BYTES_MAX = 512 * 1024;

type Cut = 'multiline_cut' | 'partial_cut';
/** Of a file that is read from `position`; undefined where a line is a reading. `count` is told what ended before its end. */
type MakeAssembler = (position: Pick<FilePosition, 'ahead'>, count: (event: Cut) => void) => Assembler | undefined;

/** What only some sources need is loaded for them. */
export async function assemblerOf({ multiline, format, maxMessageBytes }: FileSourceConfig): Promise<MakeAssembler> {
  const joining = multiline === undefined ? undefined : await import('./line-joiner.ts');
  if (format !== 'cri' && format !== 'docker') {
    return (_, count) => joining && multiline && new joining.LineJoiner(multiline, () => count('multiline_cut'));
  }
  const { ContainerLines } = await import('./container-lines.ts');
  return ({ ahead }, count) => {
    const makeJoiner = joining && multiline && (() => new joining.LineJoiner(multiline, () => count('multiline_cut')));
    const onCut = (): void => count('partial_cut');
    return new ContainerLines(
      { format, maxMessageBytes: maxMessageBytes ?? MESSAGE_BYTES_MAX, makeJoiner, onCut },
      ahead,
    );
  };
}
