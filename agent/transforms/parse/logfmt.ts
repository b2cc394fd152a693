/** logfmt: `level=info msg="it \"works\"" dur=1.5s cached`. Pure, and in one pass. */
import { emptyFields } from '../draft.ts';

const KEY_END = /[\s="]/g;
const WORD_END = /[\s"]/g;
const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' };

/** A word without `=` is true; of a key that comes twice, the last one counts. null for a text that is none: without any pair, or with a quote too many. */
export function parseLogfmt(text: string): Record<string, unknown> | null {
  const fields = emptyFields();
  let hasPair = false;
  for (let at = 0; ;) {
    while (at < text.length && text.charCodeAt(at) <= 32) at += 1;
    if (at >= text.length) return hasPair ? fields : null;
    const keyEnd = endOf(KEY_END, text, at);
    const key = text.slice(at, keyEnd);
    if (key === '' || text[keyEnd] === '"') return null;
    if (text[keyEnd] !== '=') {
      fields[key] = true;
      at = keyEnd;
      continue;
    }
    hasPair = true;
    const isQuoted = text[keyEnd + 1] === '"';
    const end = isQuoted ? quoteEnd(text, keyEnd + 2) : endOf(WORD_END, text, keyEnd + 1);
    if (end < 0 || (!isQuoted && text[end] === '"')) return null;
    fields[key] = isQuoted ? unescaped(text.slice(keyEnd + 2, end)) : text.slice(keyEnd + 1, end);
    at = isQuoted ? end + 1 : end;
    if (at < text.length && text.charCodeAt(at) > 32) return null;
  }
}

function endOf(pattern: RegExp, text: string, from: number): number {
  pattern.lastIndex = from;
  return pattern.exec(text)?.index ?? text.length;
}

/** Of the quote that is open at `from`; -1 where it is not closed. */
function quoteEnd(text: string, from: number): number {
  for (let at = from; at < text.length; at += 1) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === '"') return at;
  }
  return -1;
}

function unescaped(text: string): string {
  return text.includes('\\') ? text.replace(/\\(.)/gs, (_, char: string) => ESCAPES[char] ?? char) : text;
}
