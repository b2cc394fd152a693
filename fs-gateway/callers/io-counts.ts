/** What was asked of the file system, by somebody or of some file. All fields only grow. */
export class IoCounts {
  requests = 0;
  errors = 0;
  reads = 0;
  /** Of them, those that were not answered at once: what they wanted was neither in memory nor in the cache. */
  readsWaited = 0;
  writes = 0;
  readBytes = 0;
  writtenBytes = 0;
  /** From reading a request to its answer, summed up. */
  waitUs = 0;
  /** By the kernel alone (passthrough), estimated (passed-through.ts). */
  kernelReadBytes = 0;
  kernelWrittenBytes = 0;

  add(other: IoCounts): void {
    this.requests += other.requests;
    this.errors += other.errors;
    this.reads += other.reads;
    this.readsWaited += other.readsWaited;
    this.writes += other.writes;
    this.readBytes += other.readBytes;
    this.writtenBytes += other.writtenBytes;
    this.waitUs += other.waitUs;
    this.kernelReadBytes += other.kernelReadBytes;
    this.kernelWrittenBytes += other.kernelWrittenBytes;
  }

  /** What it moved. */
  get bytes(): number {
    return this.readBytes + this.writtenBytes + this.kernelReadBytes + this.kernelWrittenBytes;
  }
}
