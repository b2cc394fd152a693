/** The text of an HTTP answer that must not fill the memory: the other side may be broken, or somebody else. */
import { PenstockError } from './errors.ts';

/** Throws `too-large`, with the rest unread and the connection given up, and what `fetch` throws for a body that breaks off. */
export async function boundedText(response: Response, bytesMax: number): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of response.body ?? []) {
    parts.push(part as Uint8Array); // what a body's stream gives
    bytes += (part as Uint8Array).length;
    if (bytes > bytesMax) throw new PenstockError('too-large', `${response.url} answers more than ${bytesMax} bytes`);
  }
  return Buffer.concat(parts).toString('utf8');
}
