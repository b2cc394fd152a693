/** The same in the other modes of a mount. */
import { testHistory } from './modes.ts';

const world = { mounts: 2, clientsPerMount: 2 };
testHistory('2 mounts with passthrough=read', world, { passthrough: 'read' });
testHistory('2 mounts with passthrough=full', world, { passthrough: 'full' });
// By PENSTOCK_HISTORY_WRITEBACK=1 only: it finds that appends to a file that two nodes append to can be lost (docs/SEMANTICS.md, not promised yet).
if (process.env['PENSTOCK_HISTORY_WRITEBACK'] === '1') {
  testHistory('2 mounts with writeback', world, { writeback: true });
}
