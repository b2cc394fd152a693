/** The identity service: who the driver is and which services it has. */
export const DRIVER_NAME = 'penstock.csi';

export interface IdentityOptions {
  readonly version: string;
  readonly controller: boolean;
}

export class Identity {
  readonly #options: IdentityOptions;

  constructor(options: IdentityOptions) {
    this.#options = options;
  }

  getPluginInfo(): object {
    return { name: DRIVER_NAME, vendorVersion: this.#options.version };
  }

  getPluginCapabilities(): object {
    const controller = this.#options.controller ? [{ service: { type: 'CONTROLLER_SERVICE' } }] : [];
    return { capabilities: [...controller, { volumeExpansion: { type: 'ONLINE' } }] };
  }

  /** Ready once it listens: engines and stores are those of each call's secrets. */
  probe(): object {
    return { ready: { value: true } };
  }
}
