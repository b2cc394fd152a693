"""A program on a mount: does random operations and prints what it did and saw, with times of the machine's monotonic clock.

usage: client.py MOUNTPOINT CLIENT SEED [FILES]   FILES: those that this client writes, all by default
Reads commands from standard input: "run ROUND COUNT" does COUNT operations, "look" tells the state of all that is shared, and
"sum" what the client was told is durable. Each operation is one JSON line [kind, arguments, result, start, end]; a command ends with
["done"]. An error that the operation does not explain is the result "error:ERRNO": what it did is unknown.
"""
import ctypes, errno, fcntl, json, os, random, sys, time

NAMES = ['n%d' % i for i in range(5)]
FILES = ['f0', 'f1', 'f2']
RECORD = 64
EXPECTED = {errno.EEXIST: 'EEXIST', errno.ENOENT: 'ENOENT'}

mount, client, seed = sys.argv[1], sys.argv[2], sys.argv[3]
written = sys.argv[4].split(',') if len(sys.argv) > 4 else FILES
names = os.path.join(mount, 'names')
libc = ctypes.CDLL(None, use_errno=True)
rng = random.Random(seed + '/' + client)
counts = {'append': 0, 'sync': 0, 'write': 0}
durable = {'append': [], 'sync': 0, 'fcntl': 0, 'flock': 0}


def say(line):
    sys.stdout.write(json.dumps(line) + '\n')
    sys.stdout.flush()


def record(kind, arguments, run):
    say(['begin', kind, arguments])
    start = time.monotonic_ns()
    try:
        result = run()
    except OSError as error:
        result = EXPECTED.get(error.errno) if kind in NAMESPACE else None
        result = result or 'error:%s' % errno.errorcode.get(error.errno, error.errno)
    say([kind, arguments, result, start, time.monotonic_ns()])
    return result


def create(name):
    fd = os.open(os.path.join(names, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def look(name):
    return os.stat(os.path.join(names, name)).st_ino


def unlink(name):
    os.unlink(os.path.join(names, name))


def move(source, target):
    """rename(2) does nothing when both are one file, by a cache that is old perhaps: hence without replacing."""
    AT_FDCWD, RENAME_NOREPLACE = -100, 1
    paths = [os.path.join(names, name).encode() for name in (source, target)]
    if libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_NOREPLACE) != 0:
        raise OSError(ctypes.get_errno(), 'renameat2')


def replace(target):
    """A new file takes the place of what is there, as editors do it."""
    private = os.path.join(mount, 'new-' + client)
    fd = os.open(private, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.rename(private, os.path.join(names, target))
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def link(source, target):
    """The kernel looks the source up, perhaps in its cache: what is linked is the inode that was found."""
    fd = os.open(os.path.join(names, source), os.O_RDONLY)
    try:
        os.link('/proc/self/fd/%d' % fd, os.path.join(names, target), src_dir_fd=fd, follow_symlinks=True)
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


NAMESPACE = {'create': create, 'look': look, 'unlink': unlink, 'move': move, 'replace': replace, 'link': link}


def whole_write(fd, data):
    if os.write(fd, data) != len(data):
        raise OSError(errno.EIO, 'short write')


def write(name, token):
    fd = os.open(os.path.join(mount, name), os.O_WRONLY)
    try:
        whole_write(fd, token.encode().ljust(RECORD))
    finally:
        os.close(fd)


def read(name):
    fd = os.open(os.path.join(mount, name), os.O_RDONLY)
    try:
        return os.read(fd, RECORD + 1).decode().rstrip()
    finally:
        os.close(fd)


def append(line):
    fd = os.open(os.path.join(mount, 'log'), os.O_WRONLY | os.O_APPEND)
    try:
        whole_write(fd, (line + '\n').encode())
    finally:
        os.close(fd)


private = None


def sync(number):
    """One more record of the client's own file, which it keeps open."""
    global private
    if private is None:
        private = os.open(os.path.join(mount, 'own-' + client), os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(private, ('%s-%d' % (client, number)).encode().ljust(RECORD), number * RECORD)
    os.fsync(private)


def locked(kind):
    """Raises a counter under a lock; the times between which the lock was held."""
    take = fcntl.lockf if kind == 'fcntl' else fcntl.flock
    fd = os.open(os.path.join(mount, 'count-' + kind), os.O_RDWR)
    try:
        take(fd, fcntl.LOCK_EX)
        since = time.monotonic_ns()
        value = int(os.pread(fd, 20, 0))
        time.sleep(rng.random() * 0.002)
        os.pwrite(fd, b'%020d' % (value + 1), 0)
        until = time.monotonic_ns()
        take(fd, fcntl.LOCK_UN)
        return [since, until, value]
    finally:
        os.close(fd)


def operate(round_number):
    dice = rng.random()
    if dice < 0.62:
        kind = rng.choice(['create', 'create', 'create', 'look', 'look', 'look', 'unlink', 'move', 'move', 'replace', 'link'])
        arguments = rng.sample(NAMES, 2 if kind in ('move', 'link') else 1)
        record(kind, arguments, lambda: NAMESPACE[kind](*arguments))
    elif dice < 0.70:
        counts['write'] += 1
        token = '%s-w%d-%s' % (client, counts['write'], round_number)
        name = rng.choice(written)
        record('write', [name, token], lambda: write(name, token))
    elif dice < 0.80:
        name = rng.choice(FILES)
        record('read', [name], lambda: read(name))
    elif dice < 0.88:
        counts['append'] += 1
        line = '%s-a%d' % (client, counts['append'])
        if record('append', [line], lambda: append(line)) is None:
            durable['append'].append(line)
    elif dice < 0.94:
        if record('sync', [counts['sync']], lambda: sync(counts['sync'])) is None:
            durable['sync'] = counts['sync'] + 1
        counts['sync'] += 1
    else:
        kind = rng.choice(['fcntl', 'flock'])
        if isinstance(record('lock', [kind], lambda: locked(kind)), list):
            durable[kind] += 1


def state():
    found = {}
    for name in NAMES:
        try:
            found[name] = look(name)
        except FileNotFoundError:
            found[name] = 0
    listed = sorted(os.listdir(names))
    return {
        'names': found,
        'listed': listed,
        'files': {name: read(name) for name in FILES},
        'counters': {kind: read_counter(kind) for kind in ('fcntl', 'flock')},
        'log': open(os.path.join(mount, 'log')).read().split('\n')[:-1],
    }


def read_counter(kind):
    with open(os.path.join(mount, 'count-' + kind)) as file:
        return int(file.read())


def own_records(owner):
    try:
        with open(os.path.join(mount, 'own-' + owner), 'rb') as file:
            content = file.read()
    except FileNotFoundError:
        return []
    return [content[at:at + RECORD].rstrip(b' \0').decode() for at in range(0, len(content), RECORD)]


for command in sys.stdin:
    words = command.split()
    if words[0] == 'run':
        for _ in range(int(words[2])):
            operate(words[1])
    elif words[0] == 'look':
        try:
            say(['state', state()])
        except OSError as error:
            say(['state', 'error:%s' % errno.errorcode.get(error.errno, error.errno)])
        except ValueError as error:
            # With writeback another mount shows a new file before its first content: whoever looks asks again.
            say(['state', 'error:%s' % error])
    elif words[0] == 'sum':
        say(['sum', durable])
    elif words[0] == 'own':
        say(['own', own_records(words[1])])
    say(['done'])
