/** The same in the other modes of a mount. */
import { testHistory } from './modes.ts';

const world = { mounts: 2, clientsPerMount: 2 };
testHistory('2 mounts with passthrough=read', world, { passthrough: 'read' });
testHistory('2 mounts with passthrough=full', world, { passthrough: 'full' });
testHistory('2 mounts with writeback', world, { writeback: true });
testHistory('2 mounts with passthrough=full and writeback', world, { passthrough: 'full', writeback: true });
