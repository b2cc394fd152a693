/** As much of the WebAssembly JavaScript interface as is used here: TypeScript has it in its types of the browser only. */
declare namespace WebAssembly {
  class Module {
    private readonly kind: 'module';
    static imports(module: Module): readonly { readonly module: string; readonly name: string }[];
    static exports(module: Module): readonly { readonly name: string; readonly kind: string }[];
  }
  class Memory {
    readonly buffer: ArrayBuffer;
  }
  type Exports = Readonly<Record<string, unknown>>;
  class Instance {
    constructor(module: Module, imports: object);
    readonly exports: Exports;
  }
  function compile(bytes: Uint8Array): Promise<Module>;
}
