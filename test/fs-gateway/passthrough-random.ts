/** A program that does on the mount what it does on a local file, and compares. */
import type { MountedVolume } from '../support/fs-volume.ts';
import { python } from './passthrough-volume.ts';

/** Random writes, mappings, truncations and syncs by one program on the mount and on a local file, which must stay equal; seeded. */
const RANDOM = `import random
random.seed(int(sys.argv[2])); oracle = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT)
fd = os.open(path, os.O_RDWR | os.O_CREAT); reader = None
for step in range(int(sys.argv[4])):
    size = os.fstat(oracle).st_size
    kind = random.random(); at = random.randrange(0, max(1, size + 5000)); data = random.randbytes(random.choice((1, 17, 4096, 70000)))
    if kind < .55:
        for f in (fd, oracle): os.pwrite(f, data, at)
    elif kind < .62:
        cut = random.randrange(0, size + 100000)
        for f in (fd, oracle): os.ftruncate(f, cut)
    elif kind < .75 and size > 0:
        m = Mapping(fd, size); n = Mapping(oracle, size); at = random.randrange(0, size); part = data[:size - at]
        m.store(at, part); n.store(at, part); m.close(); n.close()
    elif kind < .85:
        assert os.pread(fd, 100000, at) == os.pread(oracle, 100000, at), step
        assert os.fstat(fd).st_size == size == os.stat(path).st_size, step
    elif kind < .93: os.fsync(fd)
    else:
        os.close(fd); fd = os.open(path, os.O_RDWR)
os.close(fd); os.close(oracle)
assert open(path, 'rb').read() == open(sys.argv[3], 'rb').read()
say('equal')`;

export async function random(mount: MountedVolume, name: string, seed: number, steps: number): Promise<string> {
  const oracle = `${mount.base}/oracle-${name}`;
  return python(mount, name, RANDOM, [String(seed), oracle, String(steps)]);
}
