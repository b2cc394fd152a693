/** An OPC UA server as a process that tests command over IPC and kill: node-opcua's, of the folder that `bin/install.mjs --services` makes. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import type { OpcuaCommand } from './opcua-server.ts';

/** As far as it is used here: there are no types without the package. */
interface Variable {
  setValueFromSource(variant: object, status?: object, time?: Date): void;
}
interface Space {
  readonly rootFolder: { readonly objects: object };
  getOwnNamespace(): {
    addObject(options: object): object;
    addVariable(options: object): Variable;
  };
}
interface Server {
  initialize(): Promise<void>;
  start(): Promise<void>;
  readonly engine: { readonly addressSpace: Space };
}
type Constructor<T> = new (options: object) => T;

const [folder = '', port = '0', pki = ''] = process.argv.slice(2);
const require = createRequire(join(folder, 'any.js'));
const part = async (name: string): Promise<Record<string, unknown>> =>
  (await import(pathToFileURL(require.resolve(`node-opcua-${name}`)).href)) as Record<string, unknown>;
const [serverPart, nodesetPart, managerPart, statusPart] = await Promise.all(
  ['server', 'nodesets', 'certificate-manager', 'status-code'].map(part),
);
const OPCUAServer = serverPart?.['OPCUAServer'] as Constructor<Server>;
const Manager = managerPart?.['OPCUACertificateManager'] as Constructor<object>;
const nodesets = nodesetPart?.['nodesets'] as { readonly standard: string };
const statuses = statusPart?.['StatusCodes'] as Record<string, object>;

const server = new OPCUAServer({
  port: Number(port),
  host: '127.0.0.1',
  nodeset_filename: [nodesets.standard],
  serverCertificateManager: new Manager({ rootFolder: pki, automaticallyAcceptUnknownCertificate: true }),
  userManager: { isValidUser: (user: string, password: string) => user === 'edge' && password === 'secret' },
  allowAnonymous: true,
  // A sampling interval of 0 is each change then.
  serverCapabilities: { minSupportedSampleRate: 0 },
});
await server.initialize();
const { addressSpace } = server.engine;
const device = addressSpace.getOwnNamespace().addObject({
  organizedBy: addressSpace.rootFolder.objects,
  browseName: 'Device',
});
const variables = new Map<string, Variable>();

function add(name: string, dataType: string, value: unknown, arrayType = 'Scalar'): void {
  const variable = addressSpace.getOwnNamespace().addVariable({
    componentOf: device,
    nodeId: `s=${name}`,
    browseName: name,
    dataType,
    minimumSamplingInterval: 0,
    valueRank: arrayType === 'Array' ? 1 : -1,
    value: { dataType, arrayType, value },
  });
  variables.set(name, variable);
}

add('counter', 'Double', 0);
add('text', 'String', 'first');
add('big', 'UInt64', [0xffff_ffff, 0xffff_fffe]);
add('list', 'Double', new Float64Array([1, 2.5]), 'Array');

function set(name: string, dataType: string, value: unknown, status = 'Good', timeMs = Date.now()): void {
  variables.get(name)?.setValueFromSource({ dataType, value }, statuses[status], new Date(timeMs));
}

let counter = 0;
async function obey(command: OpcuaCommand): Promise<void> {
  if (command.type === 'count') {
    for (let left = command.times; left > 0; left -= 1) {
      set('counter', 'Double', ++counter);
      if (counter % 10 === 0) await pause(1);
    }
  } else if (command.type === 'set') {
    set(command.name, command.dataType, command.value, command.status, command.timeMs);
  } else add(command.name, 'Double', 1);
  process.send?.({ counter });
}
process.on('message', (command: OpcuaCommand) => void obey(command));
process.on('disconnect', () => process.exit());
await server.start();
process.send?.({ counter });
