/**
 * While a mount had no session its volume may have been removed, and another one been made under the name, or a dump of it been loaded: what is open or
 * staged here means nothing there. A removal looks for sessions again behind the format (tools/destroy.ts), so either it sees ours, or we see that the format is gone.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { idOfLife, lifeOf, readFormat } from '../../lib/volume/format.ts';

export class VolumeIdentity {
  readonly #volume: string;
  #life: string | undefined;

  constructor(volume: string) {
    this.#volume = volume;
  }

  /** A new session, before it is used. Throws `not-found`, with the session closed, when the volume is not the one of the session before. */
  async confirmed(opening: Promise<MetaEngine>): Promise<MetaEngine> {
    const engine = await opening;
    try {
      await this.#confirm(engine);
      return engine;
    } catch (error) {
      await engine.close().catch(() => undefined); // The first error is the one to tell.
      throw error;
    }
  }

  async #confirm(engine: MetaEngine): Promise<void> {
    const format = await readFormat(engine, this.#volume);
    const life = format === null ? undefined : lifeOf(format);
    this.#life ??= life;
    if (life === this.#life) return;
    const what =
      format === null
        ? 'was removed'
        : idOfLife(this.#life ?? '') === format.id
          ? 'was loaded from a dump meanwhile, and what is staged here is not committed to it'
          : 'is another one now';
    throw new PenstockError('not-found', `volume '${this.#volume}' ${what}: unmount it here with --force`);
  }
}
