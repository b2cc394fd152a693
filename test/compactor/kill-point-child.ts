/**
 * One run of a program that dies by SIGKILL at an external write: `kill-point-child.ts <directory> <role> <operation> <call> <moment>`.
 * It ends with status 0 when there is no such call.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runCompactor } from '../../compactor/compact/compactor.ts';
import { runLander } from '../../compactor/lander/lander.ts';
import { runErase } from '../../compactor/erase/erase.ts';
import { runReplay } from '../../compactor/quarantine/replay.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { type FaultMoment, FaultPlan } from '../support/fault.ts';
import { faultyCatalog } from '../support/faulty-catalog.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { faultyStore } from '../support/faulty-store.ts';

const [dir = '', role = '', operation = '', call = '0', moment = 'before'] = process.argv.slice(2);
const plan = new FaultPlan({
  operation,
  call: Number(call),
  moment: moment as FaultMoment, // by the caller
  error: () => {
    process.kill(process.pid, 'SIGKILL');
    return new Error('killed');
  },
});
const config = parseConfig(readFileSync(join(dir, 'pipeline.yaml'), 'utf8'), 'pipeline.yaml', pipelineSchema);
const ports = await openLake(config, dir, 'test');
const { catalog } = ports.lake;
const lake = {
  ...ports.lake,
  ...(catalog === undefined ? {} : { catalog: faultyCatalog(catalog, plan) }),
  engine: faultyEngine(ports.lake.engine, plan),
  store: faultyStore(ports.lake.store, plan),
};
const shared = { config, lake, signal: new AbortController().signal, scratchRoot: join(dir, 'scratch') };
if (role === 'land') {
  const log = await openPipelineLog(config, dir);
  await runLander({ ...shared, log, once: true });
  await log.close();
} else if (role === 'replay') {
  await runReplay(shared);
} else if (role === 'erase') {
  await runErase({ ...shared, dataset: 'plant.vibration', where: "sensor = 's-1'" });
} else {
  await runCompactor({ ...shared, ignoreLag: true });
}
await ports.close();
