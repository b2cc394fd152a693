/**
 * Programs on two and three mounts, with kill -9 of workers, restarts of Redis and of the object store, and links that are cut: what they
 * saw has an explanation, and nothing that was acknowledged is lost.
 */
import { testHistory } from './modes.ts';

testHistory('2 mounts', { mounts: 2, clientsPerMount: 2 });
testHistory('3 mounts', { mounts: 3, clientsPerMount: 1 });
