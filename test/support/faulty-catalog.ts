/** A TableCatalog whose commits a FaultPlan lets pass or fails, before or after they took effect. */
import type { TableCatalog } from '../../lib/table/table.ts';
import type { FaultPlan } from './fault.ts';

export function faultyCatalog(catalog: TableCatalog, plan: FaultPlan): TableCatalog {
  return {
    load: (lake, name) => catalog.load(lake, name),
    create: (lake, name, metadata) => plan.run('catalogCreate', () => catalog.create(lake, name, metadata)),
    commit: (lake, state, next, extra) => plan.run('catalogCommit', () => catalog.commit(lake, state, next, extra)),
  };
}
