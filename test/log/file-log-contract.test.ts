import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { openLog } from '../../lib/registry.ts';
import { describeLogContract } from '../support/log-contract.ts';
import { makeTempDir } from '../support/temp.ts';

const root = makeTempDir('log');
afterAll(() => rmSync(root, { recursive: true, force: true }));

describeLogContract('file:', () => openLog(`file:${join(root, 'whole')}`));
describeLogContract('file: with a segment for every group', () =>
  openLog(`file:${join(root, 'small')}?segmentBytes=1KiB`),
);
